"""The page of the demo, drawn anew at every interaction: choices in the sidebar, then the example, then its sample.

Texts and labels, and their order, are those of the published page; what it did not have comes after them.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import streamlit as st
import torch
from omegaconf import DictConfig, OmegaConf
from streamlit.delta_generator import DeltaGenerator
from torch import Tensor

from taming.config_errors import one_line
from taming.data.scene_layout import EXAMPLE
from taming.demo import uploads
from taming.demo.examples import (
    Given,
    Prepared,
    check_numbered,
    is_caption_conditional,
    is_class_conditional,
    is_layout_conditional,
    prepare,
    rgb,
    split_names,
    takes_map,
    with_given,
)
from taming.demo.results import Result, for_screen, png
from taming.demo.running import Controls, run
from taming.demo.sampling import Rectangle, Start, drawn_seed, first_half, start_of
from taming.models.cond_transformer import Net2NetTransformer
from taming.runs import LoadedModel, Run, build_model
from taming.sampling.dataset_jobs import DatasetOptions, Split, build_split, read_batch
from taming.sampling.samples import at_precision, check_second_stage

MISTAKES = (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError)
"""What a message in the page answers; anything else is a fault of the program, and Streamlit shows where."""
FIRST_HALF, AROUND, INSIDE = "the first half", "all but a rectangle", "a rectangle only"
KEYS_SHOWN = 10
CAPTION_CHARACTERS = 1000
TITLE = "Taming Transformers"
ABOUT = (
    "A first stage turns images into a grid of codebook entries, and a transformer paints such grids token by token, "
    "each given its window of the tokens before it and what the model is conditioned on. Choose an example and options "
    "at the left, press **Sample** below, and watch."
)


@dataclass(frozen=True)
class Source:
    """What the page is about: the merged config, the run if there is one, where and how the model computes, and whether
    with its trained weights where it has averaged ones.
    """

    config: DictConfig
    run: Run | None
    device: torch.device
    precision: str
    trained_weights: bool


@dataclass(frozen=True)
class Choices:
    """The values of the sidebar's widgets. label and caption are None for the example's own; uploaded are files by what
    they are.
    """

    split: Split | None
    index: int
    scale_factor: float
    completes: bool
    seed: int
    top_p: float
    label: int | None
    caption: str | None
    kept: str
    rectangle: Rectangle | None
    uploaded: Mapping[str, tuple[str, bytes]]
    side: int


def begin() -> None:
    """The head of the page; must come first."""
    st.set_page_config(page_title=TITLE, page_icon=":material/brush:", layout="wide")
    st.title(TITLE)
    st.markdown(ABOUT)


@contextmanager
def shown_errors() -> Iterator[None]:
    """Ends the page with a message where a mistake is met; the server lives on."""
    try:
        yield
    except MISTAKES as error:
        st.error(plain(_explained(error)))
        st.stop()


def _explained(error: BaseException) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory: choose a smaller Scale Factor, or a smaller image"
    return one_line(error)


def plain(text: str) -> str:
    """Text that Streamlit's messages, which are Markdown, show as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>$~:])", r"\\\1", text)


@st.cache_resource(show_spinner="Loading the model ...")
def load_model(key: str, _source: Source) -> LoadedModel:
    """The model; `key` tells it from others, and the server keeps it for all sessions."""
    checkpoint = _source.run.checkpoint if _source.run else None
    return build_model(_source.config, checkpoint, device=_source.device, trained_weights=_source.trained_weights)


@st.cache_resource(show_spinner="Reading the data ...")
def load_split(key: str, name: str, _config: DictConfig) -> Split:
    return build_split(_config, name)


def show(source: Source) -> None:
    """Everything below the head of the page."""
    sidebar = st.sidebar
    sidebar.text(str(source.run.checkpoint) if source.run else "no checkpoint: random weights")
    step = sidebar.empty()
    step.text("Global step: ?")
    sidebar.text("Options")
    model = OmegaConf.to_yaml(source.config.get("model") or {})
    key = f"{model}{source.run and source.run.checkpoint}{source.device}{source.trained_weights}"
    loaded = load_model(key, source)
    step.text(f"Global step: {loaded.global_step}")
    show_loading(loaded)
    check_second_stage(loaded.model)
    with at_precision(loaded.model, source.precision):
        choices = choose(sidebar, loaded.model, source.config)
        prepared = prepared_example(loaded.model, choices)
        kept = kept_cells(choices, tuple(prepared.encoded.tokens.shape[1:]))
        start = start_of(loaded.model, prepared, kept)
        show_example(loaded.model, prepared, start)
        show_sampling(loaded.model, prepared, start, choices)


def show_loading(loaded: LoadedModel) -> None:
    """What loading the model took: changes of its config, keys that it does not share with its checkpoint."""
    keys = {"Missing keys": loaded.keys.missing_keys, "Unexpected keys": loaded.keys.unexpected_keys}
    if not loaded.edits and not any(keys.values()):
        return
    with st.expander("Loading messages"):
        for edit in loaded.edits:
            st.warning(plain(edit))
        for name, found in keys.items():
            if found:
                more = f" and {len(found) - KEYS_SHOWN} more" if len(found) > KEYS_SHOWN else ""
                st.info(plain(f"{name}: {', '.join(found[:KEYS_SHOWN])}{more}"))


def choose(sidebar: DeltaGenerator, model: Net2NetTransformer, config: DictConfig) -> Choices:
    """Draw the sidebar's widgets."""
    split, index = choose_example(sidebar, config)
    scale_factor = sidebar.slider("Scale Factor", min_value=0.5, max_value=4.0, value=1.0, step=0.25)
    completes = sidebar.checkbox("Image Completion", value=False)
    text = "The same seed gives the same sample; -1 draws another one each time."
    seed = sidebar.number_input("Seed", min_value=-1, value=-1, step=1, help=text)
    text = "Draw from the likeliest tokens that have this probability together; 1 is off."
    top_p = sidebar.number_input("Top p", min_value=0.01, max_value=1.0, value=1.0, step=0.05, help=text)
    label = choose_label(sidebar, model)
    caption = choose_caption(sidebar, model)
    kept, rectangle = choose_kept(sidebar) if completes else (FIRST_HALF, None)
    uploaded, side = choose_uploads(sidebar, model)
    return Choices(split, index, scale_factor, completes, seed, top_p, label, caption, kept, rectangle, uploaded, side)


def choose_example(sidebar: DeltaGenerator, config: DictConfig) -> tuple[Split | None, int]:
    """Split and index; data that cannot be had leave a message, since uploads may do without them."""
    try:
        names = split_names(config)
        if not names:
            return None, 0
        name = sidebar.radio("Split", names) if len(names) > 1 else names[0]
        split = load_split(OmegaConf.to_yaml(config.data), name, config)
        check_numbered(split)
    except MISTAKES as error:
        st.warning(plain(f"No examples: {_explained(error)}"))
        return None, 0
    last = len(split.dataset) - 1
    st.session_state["index"] = min(st.session_state.get("index", 0), last)  # of a larger split, perhaps
    label = f"Example Index (Size: {len(split.dataset)})"
    return split, sidebar.number_input(label, min_value=0, max_value=last, step=1, key="index")


def choose_label(sidebar: DeltaGenerator, model: Net2NetTransformer) -> int | None:
    if not is_class_conditional(model):
        return None
    last = model.cond_stage_model.n_classes - 1
    label = sidebar.number_input(
        "Class", min_value=-1, max_value=last, value=-1, step=1, help=f"0 to {last}; -1 is the example's own."
    )
    return None if label < 0 else label


def choose_caption(sidebar: DeltaGenerator, model: Net2NetTransformer) -> str | None:
    if not is_caption_conditional(model):
        return None
    text = "What to draw; nothing is the example's own caption."
    caption = sidebar.text_input("Caption", max_chars=CAPTION_CHARACTERS, placeholder="the example's own", help=text)
    stage = model.cond_stage_model
    if (length := stage.n_tokens(caption)) > stage.length:
        sidebar.warning(f"The caption has {length} tokens, of which the model reads the first {stage.length}.")
    return caption.strip() or None


def choose_kept(sidebar: DeltaGenerator) -> tuple[str, Rectangle | None]:
    """What of the image stays in a completion."""
    kept = sidebar.radio("Keep", [FIRST_HALF, AROUND, INSIDE])
    if kept == FIRST_HALF:
        return kept, None
    edges = {}
    columns = sidebar.columns(2)
    for place, (name, value) in enumerate({"Top": 25, "Left": 25, "Bottom": 75, "Right": 75}.items()):
        column = columns[place % 2]
        edges[name.lower()] = column.number_input(f"{name} (%)", min_value=0, max_value=100, value=value, step=5)
    return kept, Rectangle(**edges)


def choose_uploads(sidebar: DeltaGenerator, model: Net2NetTransformer) -> tuple[dict[str, tuple[str, bytes]], int]:
    """Uploaded files by what they are, name and content, and the size they are scaled to."""
    expander = sidebar.expander("Upload")
    files = {"image": expander.file_uploader("Image", type=uploads.SUFFIXES, key="image")}
    if takes_map(model):
        label = f"Conditioning: {model.cond_stage_key}"
        files["conditioning"] = expander.file_uploader(label, type=uploads.SUFFIXES, key="conditioning")
    if is_layout_conditional(model):
        label, text = f"Layout: {model.cond_stage_key}", f'A JSON file such as {{"objects": [{EXAMPLE}]}}'
        files["layout"] = expander.file_uploader(label, type="json", key="layout", help=plain(text))
    default = model.first_stage_model.encoder.resolution
    side = expander.number_input(
        "Shorter side (pixels)",
        min_value=min(16, default),
        max_value=max(1024, default),
        value=default,
        step=16,
        help="What uploads are scaled to; the Scale Factor comes on top.",
    )
    return {role: (file.name, file.getvalue()) for role, file in files.items() if file is not None}, side


def prepared_example(model: Net2NetTransformer, choices: Choices) -> Prepared:
    """The example as the model sees it; kept in the session until something else is chosen."""
    split = choices.split and choices.split.name
    digests = [(role, sha256(content).hexdigest()) for role, (_, content) in choices.uploaded.items()]
    view = max(choices.seed, 0)
    own = (choices.label, choices.caption, choices.side, *digests)
    key = (split, choices.index, choices.scale_factor, view, *own)
    if st.session_state.get("prepared", (None,))[0] != key:
        st.session_state.pop("prepared", None)  # frees its memory before the new one takes some
        given = read_given(model, choices)
        example = read_batch(choices.split.dataset, [choices.index], view) if choices.split else None
        what = {"split": choices.split, "index": choices.index, "scale_factor": choices.scale_factor, "given": given}
        made = prepare(model, with_given(model, example, choices.split, given), **what)
        st.session_state["prepared"] = key, made
    return st.session_state["prepared"][1]


def read_given(model: Net2NetTransformer, choices: Choices) -> Given:
    """What is chosen, written or uploaded in the place of the example's."""
    read: dict[str, Any] = {}
    if "image" in choices.uploaded:
        read["picture"] = uploads.read_picture(*choices.uploaded["image"], choices.side)
    if "conditioning" in choices.uploaded:
        n_channels = model.cond_stage_model.encoder.in_channels
        kind = {"key": model.cond_stage_key, "n_channels": n_channels}
        read["conditioning"] = uploads.read_map(*choices.uploaded["conditioning"], choices.side, **kind)
    if "layout" in choices.uploaded:
        read["layout"] = uploads.read_layout(*choices.uploaded["layout"])
    return Given(label=choices.label, caption=choices.caption, **read)


def kept_cells(choices: Choices, shape: tuple[int, int]) -> Tensor | None:
    """Which cells of the grid keep the image's tokens; None for no completion."""
    if not choices.completes:
        return None
    if choices.kept == FIRST_HALF:
        return first_half(shape)
    inside = choices.rectangle.cells(shape)
    return inside if choices.kept == INSIDE else ~inside


def show_example(model: Net2NetTransformer, prepared: Prepared, start: Start) -> None:
    """Image, reconstruction, conditioning if there is any, and what sampling begins with."""
    columns = iter(st.columns(3 if prepared.condition_text is None else 4))
    encoded = prepared.encoded
    with next(columns):
        st.text(f"Image: {tuple(encoded.images.shape)}")
        st.image(for_screen(prepared.image), output_format="PNG")
        if not encoded.images.any():
            st.caption("Nothing is given, so grey stands in.")
    with next(columns):
        st.text(f"Reconstruction: {(1, 3, *prepared.reconstruction.shape[:2])}")
        st.image(for_screen(prepared.reconstruction), output_format="PNG")
    if prepared.condition_text is not None:
        with next(columns):
            st.text(prepared.condition_text)
            if prepared.picture is not None:
                st.image(for_screen(prepared.picture), output_format="PNG")
    with next(columns):
        st.text("Start")
        if start.from_condition:
            st.info("Setting idx to c_indices")
        st.image(for_screen(rgb(model.decode_to_img(start.grid, encoded.zshape))), output_format="PNG")


def show_sampling(model: Net2NetTransformer, prepared: Prepared, start: Start, choices: Choices) -> None:
    """The options of the sampler, its buttons, and what it last made."""
    temperature, top_k, sample, update_every = st.columns(4, vertical_alignment="bottom")
    chosen = {
        "temperature": temperature.number_input("Temperature", min_value=0.01, value=1.0, step=0.1),
        "top_k": top_k.number_input("Top k", min_value=1, value=100, step=1),
        "greedy": not sample.checkbox("Sample", value=True),
    }
    every = update_every.number_input("Update every", min_value=1, value=75, step=1)
    shape = tuple(start.grid.shape[1:])
    shape_column, animate_column, elapsed_column, place_column = st.columns(4)
    shape_column.text(f"Sampling shape ({shape[0]},{shape[1]})")
    animates = animate_column.checkbox("animate")
    elapsed, place = elapsed_column.empty(), place_column.empty()
    st.text("Sampled")
    begin_column, stop_column, _ = st.columns([1, 1, 4])
    pressed = begin_column.button("Sample", type="primary", width="stretch")
    stop = stop_column.empty()
    draw_stop(stop, enabled=pressed)
    controls = Controls(elapsed, place, st.empty(), st.empty())
    if pressed:
        seed = drawn_seed(choices.seed)
        options = DatasetOptions(seed=seed, top_p=choices.top_p, **chosen)
        folder = session_folder() if animates else None
        run(model, prepared, start, options, controls, title=title_of(choices), every=every, folder=folder)
        draw_stop(stop, enabled=False)
    elif (result := st.session_state.get("result")) is not None:
        elapsed.text(f"Time: {result.seconds:.1f} seconds")
        controls.picture.image(for_screen(result.image), output_format="PNG")
    if (result := st.session_state.get("result")) is not None:
        show_result(result)


def draw_stop(place: DeltaGenerator, *, enabled: bool) -> None:
    """A button that needs no answer: whatever is pressed during a run ends it."""
    text = "Ends sampling and keeps what there is."
    place.button("Stop", key=f"stop_{enabled}", disabled=not enabled, width="stretch", help=text)


def title_of(choices: Choices) -> str:
    """What a sample is of, in a few words."""
    caption = [] if choices.caption is None else [f'"{choices.caption}"']
    label = [] if choices.label is None else [f"class {choices.label}"]
    example = [f"{choices.split.name}, example {choices.index}"] if choices.split else ["no example"]
    return ", ".join([*([name for name, _ in choices.uploaded.values()] or example), *caption, *label])


def session_folder() -> Path:
    """A folder that goes with the session."""
    if "folder" not in st.session_state:
        st.session_state["folder"] = tempfile.TemporaryDirectory(prefix="taming-demo-")
    return Path(st.session_state["folder"].name)


def show_result(result: Result) -> None:
    """How the picture was made, its video, and both to download."""
    st.caption(plain(result.caption()))
    columns = st.columns([1, 1, 4])
    columns[0].download_button("Download image", png(result.image), "sample.png", "image/png", on_click="ignore")
    if result.video is not None:
        columns[1].download_button("Download video", result.video, "sampling.mp4", "video/mp4", on_click="ignore")
        st.video(result.video)
        st.caption(plain(f"The video is in {result.video_path}"))
