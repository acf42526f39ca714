"""A run of the sampler under the eyes of the page: every call of a widget is where Stop, or another choice, ends it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from torch import Tensor

from taming.demo.examples import Prepared, rgb
from taming.demo.results import VIDEO, Result, animation, for_screen, published
from taming.demo.sampling import Progress, Start, sample, step_text
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.dataset_jobs import DatasetOptions
from taming.sampling.window_engines import WindowStep


@dataclass(frozen=True)
class Controls:
    """Places of the page that a run writes to: time, cell, progress, picture."""

    elapsed: DeltaGenerator
    place: DeltaGenerator
    progress: DeltaGenerator
    picture: DeltaGenerator


def run(
    model: Net2NetTransformer,
    prepared: Prepared,
    start: Start,
    options: DatasetOptions,
    controls: Controls,
    *,
    title: str,
    every: int,
    folder: Path | None,
) -> None:
    """Sample, and show the picture whenever the raster index of a cell is a multiple of `every`, and at the end.

    The session's `result` is the last picture shown, so that a run which is stopped leaves it. With a `folder` each is
    a frame of a video, which is there only if the run ends.
    """
    st.session_state.pop("result", None)
    progress = Progress()
    blank = Result(prepared.image, title, options.seed, 0.0, n_done=0, n_total=start.grid.numel())

    def redraw(grid: Tensor, n_done: int, n_total: int) -> np.ndarray:
        """What is shown, uint8 (h, w, 3)."""
        image = rgb(model.decode_to_img(grid, prepared.encoded.zshape))
        shown = for_screen(image)
        st.session_state["result"] = replace(
            blank, image=image, seconds=progress.seconds, n_done=n_done, n_total=n_total
        )
        controls.picture.image(shown, output_format="PNG")
        return shown

    with animation(folder) as add_frame:
        watch = _watcher(controls, progress, redraw, add_frame, every)
        grid = sample(model, prepared, start, options, watch)
        add_frame(redraw(grid, blank.n_total, blank.n_total))
    controls.elapsed.text(f"Time: {progress.seconds:.1f} seconds")
    controls.progress.empty()
    if folder is not None:
        video, result = folder / VIDEO, st.session_state["result"]
        st.session_state["result"] = replace(result, video=video.read_bytes(), video_path=published(video))


def _watcher(
    controls: Controls,
    progress: Progress,
    redraw: Callable[[Tensor, int, int], np.ndarray],
    add_frame: Callable[[np.ndarray], None],
    every: int,
) -> Callable[[WindowStep], None]:
    def watch(step: WindowStep) -> None:
        is_last = step.n_done == step.n_total
        if is_last or progress.is_due():
            controls.elapsed.text(f"Time: {progress.seconds:.1f} seconds")
            controls.place.text(step_text(step))
            controls.progress.progress(step.n_done / step.n_total, progress.text(step.n_done, step.n_total))
        if step.index % every == 0 and not is_last:
            add_frame(redraw(step.grid, step.n_done, step.n_total))

    return watch
