"""Images by layouts of objects: for each layout one picture, a row of samples with the layout drawn at its end.

A sample depends on the seed, its layout and its number only. Images larger than a window are sampled window by window,
each of which is told the objects that it shows.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.utils import make_grid

from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder
from taming.data.conditional_builder.utils import FULL_CROP
from taming.data.helper_types import Annotation
from taming.data.scene_layout import SceneLayout
from taming.images import displayable
from taming.models.cond_transformer import Net2NetTransformer
from taming.models.conditioning import LAYOUTS
from taming.sampling.dataset_jobs import Split
from taming.sampling.decode import sample_uniforms
from taming.sampling.file_jobs import FileJob, continued, start
from taming.sampling.manifest import environment
from taming.sampling.options import JobOptions, TopK, check_num_samples
from taming.sampling.samples import check_second_stage
from taming.sampling.window_conditioning import layouts_in_windows
from taming.sampling.windowed import sample_windowed
from taming.sampling.windows import default_side
from taming.sampling.writers import output

SEED = 42424242
"""The published command's."""
PADDING = 2
"""Pixels between the tiles of a row."""


@dataclass(frozen=True, kw_only=True)
class SceneOptions(JobOptions):
    """resolution: height and width of the images (None: what one window covers). conditional: the kind of layout (None:
    what the model reads). num_samples: the first layouts only. window: side of the window (None: the largest that the
    model can read). greedy: the most likely tokens.
    """

    seed: int | None = SEED
    top_k: TopK = 100
    batch_size: int = 4
    resolution: tuple[int, int] | None = None
    conditional: str | None = None
    n_samples_per_layout: int = 4
    num_samples: int | None = None
    window: int | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.top_ks) > 1:
            raise ValueError(f"top_k: one number of tokens is expected, not {self.top_k}")
        if self.resolution is not None and min(self.resolution) < 1:
            raise ValueError(f"resolution must be positive, not {self.resolution[0]},{self.resolution[1]}")
        if self.n_samples_per_layout < 1:
            raise ValueError(f"n_samples_per_layout must be positive, not {self.n_samples_per_layout}")
        if self.num_samples is not None:
            check_num_samples(self.num_samples)
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be positive, not {self.window}")


@dataclass(frozen=True)
class Layouts:
    """Scenes by their place: the names of their files, numbers that random numbers follow, and what gives the objects
    of one.
    """

    names: tuple[str, ...]
    keys: tuple[int, ...]
    read: Callable[[int], Sequence[Annotation]]


@dataclass(frozen=True)
class SceneJob(FileJob):
    """A job, made by `plan_scene_job`, for a grid of `shape` (h, w) tokens by windows of side `window`."""

    dataset: Dataset
    layouts: Layouts
    conditional: str
    shape: tuple[int, int]
    window: int

    @property
    def builder(self) -> ObjectsCenterPointsConditionalBuilder:
        return self.dataset.conditional_builders[self.conditional]

    @property
    def n_remaining(self) -> int:
        """Samples that this process is to make."""
        return len(self.remaining()) * self.options.n_samples_per_layout

    def describe(self) -> str:
        """One line: how many samples of what, how many are there, and the seed."""
        height, width = self.manifest["resolution"]
        rows = f"{len(self.names)} layouts x {self.options.n_samples_per_layout} samples"
        return f"{self.conditional}: {rows} of {width} x {height} pixels{self.progress}"


def layouts_of_split(split: Split, *, per_batch: int, count: int | None = None) -> Layouts:
    """The first `count` scenes of a split, called <batch>_<place in the batch>.

    Raises ValueError if its items have no annotations.
    """
    n_scenes = len(split.dataset) if count is None else min(count, len(split.dataset))
    names = [f"{batch:04}_{place:02}" for batch, place in (divmod(i, per_batch) for i in range(n_scenes))]
    return Layouts(tuple(names), tuple(range(n_scenes)), partial(_annotations, split))


def _annotations(split: Split, index: int) -> Sequence[Annotation]:
    item = split.dataset[index]
    if "annotations" not in item:
        raise ValueError(
            f"split {split.name}: items have only {', '.join(map(str, item))}; add annotations to "
            f"data.params.{split.name}.params.keys"
        )
    return item["annotations"]


def layouts_of_files(paths: Sequence[Path], split: Split, conditional: str) -> Layouts:
    """The scenes in files of `SceneLayout`, with the classes of a split's data set; called <stem>_<digest>.

    So a file that was changed gives a new picture, and each layout has its own random numbers. Raises ValueError for
    what the data set's layouts cannot hold, FileNotFoundError.
    """
    layouts = [SceneLayout.read(path) for path in paths]
    names = [f"{Path(path).stem}_{layout.digest[:8]}" for path, layout in zip(paths, layouts, strict=True)]
    found = dict(zip(names, layouts, strict=True))
    builders_of(split, conditional)
    objects = [layout.annotations(split.dataset, conditional) for layout in found.values()]
    return Layouts(tuple(found), tuple(layout.key for layout in found.values()), objects.__getitem__)


def builders_of(split: Split, conditional: str) -> ObjectsCenterPointsConditionalBuilder:
    """What makes tokens of a split's scenes. Raises ValueError for data without layouts of this kind."""
    builders = getattr(split.dataset, "conditional_builders", {})
    if conditional not in builders:
        known = f"only {', '.join(builders)}" if builders else "no layouts of objects"
        raise ValueError(f"split {split.name}: the data have {known}, not {conditional!r}, which is to be sampled by")
    return builders[conditional]


def conditional_of(model: Net2NetTransformer, conditional: str | None = None) -> str:
    """The kind of layout that a model reads; ValueError if it reads none, or another one than is asked for."""
    check_second_stage(model)
    key = model.cond_stage_key
    if key not in LAYOUTS:
        raise ValueError(
            f"this model is conditioned on {key!r}, not on layouts of objects: sample it with scripts/make_samples.py"
        )
    if conditional not in (None, key):
        raise ValueError(f"conditional={conditional}: this model reads {key}, leave the option out")
    return key


def plan_scene_job(
    model: Net2NetTransformer,
    split: Split,
    outdir: str | Path,
    options: SceneOptions,
    *,
    layouts: Layouts,
    global_step: int = 0,
    run: str | None = None,
) -> SceneJob:
    """The job of a row of samples per layout below `outdir`; writes nothing yet.

    `split` has the builder of the model's layouts and the names of the classes. The folder is <outdir>/<global step,
    six digits>_<top_k>_<temperature>. Raises ValueError for a model that this cannot sample, data that do not fit it,
    and for other options than those of the samples in the folder.
    """
    conditional = conditional_of(model, options.conditional)
    builder = builders_of(split, conditional)
    window = _window(model, builder, options.window)
    factor = 2 ** (model.first_stage_model.encoder.num_resolutions - 1)
    shape = latent_sides(options.resolution or (1, 1), window, factor)
    if not layouts.names:
        raise ValueError(f"split {split.name}: the data set is empty")
    manifest = {
        "run": run,
        "global_step": global_step,
        "data": split.config,
        "num_samples": len(layouts.names),
        "conditional": conditional,
        "resolution": [side * factor for side in shape],
        "window": window,
        **_recorded(options),
        **environment(model),
    }
    folder = Path(outdir) / f"{global_step:06}_{manifest['top_k']}_{manifest['temperature']}"
    finished, manifest = continued(folder, layouts.names, manifest, options)
    facts = {"dataset": split.dataset, "layouts": layouts, "conditional": conditional, "shape": shape, "window": window}
    return SceneJob(model, folder, layouts.names, options, finished, manifest, **facts)


def latent_sides(resolution: tuple[int, int], window: int, factor: int) -> tuple[int, int]:
    """Rows and columns of tokens for height and width in pixels: the nearest, halves to the even one, but a window."""
    return tuple(round(max(side, window * factor) / factor) for side in resolution)


def _window(model: Net2NetTransformer, builder: ObjectsCenterPointsConditionalBuilder, window: int | None) -> int:
    length, gpt = builder.embedding_dim, model.transformer
    if builder.no_tokens > gpt.config.vocab_size:
        raise ValueError(
            f"no_tokens={builder.no_tokens} of the data set: the model reads {gpt.config.vocab_size} tokens; use the "
            "data section that it was trained with"
        )
    if window is None:
        return default_side(gpt.block_size, lambda side: length)
    if length + window**2 - 1 > gpt.block_size:
        raise ValueError(
            f"window={window}: {window**2} tokens and the layout's {length} do not fit into the model's block_size "
            f"{gpt.block_size}; at most {math.isqrt(max(gpt.block_size + 1 - length, 0))} can be its side"
        )
    return window


def _recorded(options: SceneOptions) -> dict[str, object]:
    """Entries of the manifest."""
    numbers = {name: float(getattr(options, name)) for name in ("temperature", "top_p")}
    as_given = ("seed", "n_samples_per_layout", "greedy", "precision")
    return {**numbers, "top_k": options.top_ks[0], **{name: getattr(options, name) for name in as_given}}


def run_scene_job(job: SceneJob, *, progress: bool = True) -> Path:
    """Sample what this process is to make and write it, each file when it is complete; returns the job's folder."""
    job = start(job)
    numbers, size = range(job.options.n_samples_per_layout), job.options.batch_size
    with output(job.folder, job.n_remaining, progress=progress) as (write, bar):
        for place in job.remaining():
            annotations, samples = job.layouts.read(place), []
            for first in numbers[::size]:
                batch = numbers[first : first + size]
                samples.append(_sample(job, place, annotations, batch).cpu())
                bar.update(len(batch))
            write(job.file(place), row(torch.cat(samples), _plot(job, place, annotations)))
    return job.folder


def _sample(job: SceneJob, place: int, annotations: Sequence[Annotation], numbers: Sequence[int]) -> Tensor:
    """Samples (b, 3, h, w) by their numbers, around [-1, 1]."""
    (height, width), options = job.shape, job.options
    seed, key = job.manifest["seed"], job.layouts.keys[place]
    uniforms = sample_uniforms(seed, [(key, number) for number in numbers], height * width)
    seeds = [f"{seed}/{key}/{number}" for number in numbers]
    grid = sample_windowed(
        job.model,
        shape=job.shape,
        **layouts_in_windows(job.builder, annotations, job.shape, job.window, seeds),
        temperature=options.temperature,
        top_k=options.top_ks[0],
        top_p=options.top_p,
        sample=not options.greedy,
        uniforms=uniforms.view(-1, height, width),  # (b, h*w) -> (b, h, w)
    )
    return job.model.decode_to_img(grid, (len(numbers), job.model.first_stage_model.quantize.e_dim, height, width))


def _plot(job: SceneJob, place: int, annotations: Sequence[Annotation]) -> Tensor:
    """The whole layout as an image (3, h, w) in [-1, 1]."""
    seed = f"{job.manifest['seed']}/{job.layouts.keys[place]}"
    tokens = job.builder.build(annotations, FULL_CROP, rng=random.Random(seed))
    height, width = job.manifest["resolution"]
    return job.builder.plot(tokens, job.dataset.get_textual_label_for_category_no, (width, height))


def row(samples: Tensor, plot: Tensor) -> np.ndarray:
    """Samples (n, c, h, w) and a plot (3, h, w) around [-1, 1] side by side, uint8 (H, W, 3), rounded as torchvision
    does when it saves images."""
    samples = displayable(samples).expand(-1, 3, -1, -1)
    tiles = (torch.cat([samples, plot[None]]).float() + 1) / 2
    grid = make_grid(tiles, nrow=len(tiles), padding=PADDING)
    return grid.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).movedim(0, -1).contiguous().numpy()
