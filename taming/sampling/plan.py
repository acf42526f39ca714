"""What a job samples, where to, and what is there already.

A sample is named by a key, (class, index), or (None, index) if unconditional, and depends on the seed and its key only.
So a job may stop at any time and go on later, in any batches and any number of processes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.classes import class_labels
from taming.sampling.decode import Key
from taming.sampling.manifest import MANIFEST, environment, settle
from taming.sampling.options import SamplingOptions
from taming.sampling.samples import check_guidance, latent_shape

CANDIDATES = "candidates"
"""Folder in a job's folder for what is to be chosen from."""

Scorer = Callable[[Tensor, Tensor], Tensor]
"""From images (b, 3, H, W) in [-1, 1] and labels int64 (b,), -1 if unconditional, to scores (b,): more is better."""


@dataclass(frozen=True)
class SamplingJob:
    """A job, made by `plan_job`: `finished` holds the indices of each class that have a file, `manifest` is what
    sampling.json will say. The process's own part of the work is that of options.shard.
    """

    model: Net2NetTransformer
    folder: Path
    classes: tuple[int | None, ...]
    shape: tuple[int, int, int]
    options: SamplingOptions
    finished: Mapping[int | None, frozenset[int]]
    manifest: Mapping[str, object]
    score: Scorer | None = None

    @property
    def n_total(self) -> int:
        """Files of all processes together."""
        return len(self.classes) * self.options.num_samples

    @property
    def n_remaining(self) -> int:
        """Files that this process is to make."""
        owned = len(self._positions())
        if self.options.overwrite:
            return owned
        if self.options.shard.count == 1:
            return owned - sum(map(len, self.finished.values()))
        num_samples, shard = self.options.num_samples, self.options.shard
        positions = (
            number * num_samples + i for number, label in enumerate(self.classes) for i in self.finished[label]
        )
        return owned - sum(position % shard.count == shard.index for position in positions)

    @property
    def draw_options(self) -> dict[str, object]:
        """The keyword arguments of `sample_batches` for this job."""
        names = ("batch_size", "top_ks", "compile", "guidance_scale", "temperature", "top_p")
        choices = {name: getattr(self.options, name) for name in names}
        return {"seed": self.manifest["seed"], "shape": self.shape, **choices}

    def describe(self) -> str:
        """One line: how many samples of what, how many are there, and the seed."""
        num_samples = self.options.num_samples
        if self.model.be_unconditional:
            mode = f"unconditional: {num_samples} samples"
        else:
            mode = f"class-conditional: {len(self.classes)} classes x {num_samples} samples"
        n_finished = 0 if self.options.overwrite else sum(map(len, self.finished.values()))
        done = f", {n_finished} of them finished" if n_finished else ""
        best = f", the best of {self.options.n_candidates}" if self.options.acceptance_rate < 1 else ""
        shard = self.options.shard
        seed = "that of shard 0" if self.manifest["seed"] is None else self.manifest["seed"]
        part = f"; part {shard.index} of {shard.count} makes {self.n_remaining}" if shard.count > 1 else ""
        return f"{mode}{best}, {self.n_total} in all{done}; seed {seed}{part}"

    def all_keys(self) -> Iterator[Key]:
        """All samples of all processes in order."""
        for label in self.classes:
            yield from ((label, index) for index in range(self.options.num_samples))

    def remaining(self) -> Iterator[Key]:
        """The samples that this process is to make."""
        for position in self._positions():
            number, index = divmod(position, self.options.num_samples)
            label = self.classes[number]
            if self.options.overwrite or index not in self.finished[label]:
                yield label, index

    def file(self, key: Key) -> Path:
        label, index = key
        return class_folder(self.folder, label) / f"{index:06}.png"

    def _positions(self) -> range:
        """Own places among all keys; they do not depend on what is finished, which processes may see differently."""
        return range(self.options.shard.index, self.n_total, self.options.shard.count)


def plan_job(
    model: Net2NetTransformer,
    root: str | Path,
    options: SamplingOptions,
    *,
    classes: str | Sequence[int] | None = None,
    shape: tuple[int, int, int] | None = None,
    global_step: int = 0,
    run: str | None = None,
    score: Scorer | None = None,
) -> SamplingJob:
    """The job of options.num_samples samples per class, or in all if unconditional, below `root`; writes nothing yet.

    The folder is <root>/samples/<folder_name(options)>/<global_step>. `run` is the model's name, `score` ranks
    candidates if the acceptance rate is below 1. Raises ValueError for options that do not fit the model, and for
    others than those of the samples that stay in the folder.
    """
    labels = class_labels(model, classes)
    check_guidance(options.guidance_scale, model)
    if options.acceptance_rate < 1 and score is None:
        raise ValueError(f"acceptance_rate={options.acceptance_rate} needs a score to choose by, such as resnet101's")
    folder = Path(root) / "samples" / folder_name(options) / str(global_step)
    finished = {label: _finished(class_folder(folder, label), options.num_samples) for label in labels}
    shape = latent_shape(model) if shape is None else shape
    manifest = {
        "run": run,
        "global_step": global_step,
        "classes": None if model.be_unconditional else list(labels),
        **dict(zip(("dim_z", "z_height", "z_width"), shape, strict=True)),
        **_recorded(options, score),
        **environment(model),
    }
    manifest = _settled(folder, manifest, options, finished)
    return SamplingJob(model, folder, labels, shape, options, finished, manifest, score)


def folder_name(options: SamplingOptions) -> str:
    """top_k_<k>_temp_<t>_top_p_<p>, k being "mixed" if there are several; guidance is added when it is on."""
    top_k = "mixed" if len(options.top_ks) > 1 else options.top_ks[0]
    name = f"top_k_{top_k}_temp_{options.temperature:.2f}_top_p_{float(options.top_p)}"
    return name if options.guidance_scale == 1 else f"{name}_guidance_{float(options.guidance_scale)}"


def class_folder(folder: Path, label: int | None) -> Path:
    return folder if label is None else folder / str(label)


def label_name(label: int | None) -> str:
    """A class among the scores of a manifest and in the folder of candidates."""
    return "all" if label is None else str(label)


def _recorded(options: SamplingOptions, score: Scorer | None) -> dict[str, object]:
    """Entries of the manifest."""
    recorded = {
        "seed": options.seed,
        "num_samples": options.num_samples,
        "temperature": float(options.temperature),
        "top_k": options.top_ks[0] if len(options.top_ks) == 1 else list(options.top_ks),
        "top_p": float(options.top_p),
        "guidance_scale": float(options.guidance_scale),
        "acceptance_rate": float(options.acceptance_rate),
        "precision": options.precision,
        "compile": options.compile,
    }
    if options.acceptance_rate < 1:
        name = getattr(score, "__qualname__", type(score).__qualname__)
        recorded |= {"classifier": getattr(score, "name", name), "scores": {}}
    return recorded


def _settled(
    folder: Path, manifest: dict, options: SamplingOptions, finished: Mapping[int | None, frozenset[int]]
) -> dict:
    """The manifest that goes on from what the folder holds."""
    n_finished = sum(map(len, finished.values()))
    redone = {label_name(label) for label in finished} if options.overwrite else set()
    is_fresh = n_finished == 0 and options.shard.count == 1  # a job that made nothing binds nobody
    nothing_stays = _n_files(folder) == n_finished and _classes_with_candidates(folder) <= redone
    redo = (options.overwrite or is_fresh) and nothing_stays
    manifest = settle(folder / MANIFEST, manifest, options.shard, redo=redo, has_samples=n_finished > 0)
    if "scores" in manifest:
        manifest["scores"] = {name: choice for name, choice in manifest["scores"].items() if name not in redone}
    return manifest


def _finished(folder: Path, num_samples: int) -> frozenset[int]:
    stems = (path.stem for path in folder.glob("*.png"))
    return frozenset(int(stem) for stem in stems if re.fullmatch("[0-9]{6,}", stem) and int(stem) < num_samples)


def _classes_with_candidates(folder: Path) -> set[str]:
    return {path.name for path in (folder / CANDIDATES).glob("*")}


def _n_files(folder: Path) -> int:
    """Number of samples of all classes, also of those and beyond those that a job is about."""
    return sum(1 for pattern in ("*.png", "*/*.png") for _ in folder.glob(pattern))
