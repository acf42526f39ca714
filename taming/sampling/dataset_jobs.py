"""A sample for every example of a data set, by windows: originals, reconstructions and samples as PNG files.

An example is named by its index, and its sample depends on the seed and the index only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import Dataset

from taming.config import config_error, instantiate_from_config
from taming.data.seeded import SeededViews
from taming.data.utils import custom_collate
from taming.images import to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.decode import sample_uniforms
from taming.sampling.encoding import EncodedBatch, check_windowed_model, encode_batch, has_pictures
from taming.sampling.manifest import MANIFEST, agree, environment, settle
from taming.sampling.options import JobOptions, TopK, check_num_samples
from taming.sampling.windowed import sample_windowed
from taming.sampling.writers import explained, output, remove_leftovers

FOLDERS = ("originals", "reconstructions", "samples")
CONDITIONING = "conditioning"


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(JobOptions):
    """num_samples: the first examples only. window: side of the window (None: the model's largest). greedy: the most
    likely tokens. half_sample: the first half of each image's own tokens is kept. scale_factor: of images and spatial
    conditioning. save_conditioning: pictures of it as well.
    """

    top_k: TopK = 100
    num_samples: int | None = None
    window: int | None = None
    greedy: bool = False
    half_sample: bool = False
    scale_factor: float = 1.0
    save_conditioning: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.top_ks) > 1:
            raise ValueError(f"top_k: one number of tokens is expected, not {self.top_k}")
        if self.num_samples is not None:
            check_num_samples(self.num_samples)
        if self.window is not None and self.window < 1:
            raise ValueError(f"window must be positive, not {self.window}")
        if not 0 < self.scale_factor < float("inf"):
            raise ValueError(f"scale_factor must be positive, not {self.scale_factor}")


@dataclass(frozen=True)
class DatasetJob:
    """A job, made by `plan_dataset_job`; `finished` are the indices of examples that have all their files."""

    model: Net2NetTransformer
    dataset: Dataset
    folder: Path
    n_examples: int
    options: DatasetOptions
    finished: frozenset[int]
    manifest: Mapping[str, object]

    @property
    def folders(self) -> tuple[str, ...]:
        """The subfolders of the job."""
        return (*FOLDERS, CONDITIONING) if self.options.save_conditioning else FOLDERS

    def describe(self) -> str:
        """One line: how many examples of what, how many are there, and the seed."""
        n_finished = 0 if self.options.overwrite else len(self.finished)
        done = f", {n_finished} of them finished" if n_finished else ""
        seed = "that of shard 0" if self.manifest["seed"] is None else self.manifest["seed"]
        return f"split {self.manifest['split']}: {self.n_examples} examples{done}; seed {seed}"

    def remaining(self) -> list[int]:
        """The examples that this process is to sample."""
        skipped = () if self.options.overwrite else self.finished
        return [index for index in self.options.shard.part(range(self.n_examples)) if index not in skipped]

    def file(self, folder: str, index: int) -> Path:
        return self.folder / folder / f"{index:06}.png"


@dataclass(frozen=True)
class Split:
    """A part of the data: its name, e.g. "validation", the data set, and the config of that."""

    name: str
    dataset: Dataset
    config: Mapping[str, object]


def build_split(config: DictConfig, name: str | None = None) -> Split:
    """A split of the data that `config.data` describes, by default the first by its name; no other is built.

    Raises ValueError for a split that is not there.
    """
    if config.get("data") is None:
        raise config_error(config, "data", "this section is missing")
    configs = instantiate_from_config(config.data).dataset_configs
    name = min(configs) if name is None else name
    if name not in configs:
        raise ValueError(f"split {name}: the data have {', '.join(sorted(configs))}")
    return Split(name, instantiate_from_config(configs[name]), OmegaConf.to_container(configs[name], resolve=True))


def plan_dataset_job(
    model: Net2NetTransformer,
    split: Split,
    outdir: str | Path,
    options: DatasetOptions,
    *,
    global_step: int = 0,
    run: str | None = None,
) -> DatasetJob:
    """The job of a sample per example of the split below `outdir`; writes nothing yet.

    The folder is <outdir>/<global step, six digits>_<top_k>_<temperature>. `run`, the model's name, is recorded. Raises
    ValueError for a model that this cannot sample, and for other options than those of the samples in the folder.
    """
    check_windowed_model(model)
    block_size = model.transformer.block_size
    if options.window is not None and options.window**2 > block_size:  # beside at least one token of conditioning
        raise ValueError(
            f"window={options.window}: {options.window**2} tokens do not fit into the model's block_size {block_size}; "
            f"at most {math.isqrt(block_size)} can be its side"
        )
    if options.save_conditioning and not has_pictures(model):
        raise ValueError(
            f"save_conditioning: {model.cond_stage_key!r}, which this model is conditioned on, is no picture"
        )
    n_all = len(split.dataset)
    n_examples = n_all if options.num_samples is None else min(options.num_samples, n_all)
    if n_examples == 0:
        raise ValueError(f"split {split.name}: the data set is empty")
    manifest = {
        "run": run,
        "global_step": global_step,
        "split": split.name,
        "data": split.config,
        "num_samples": n_examples,
        **_recorded(options),
        **environment(model),
    }
    folder = Path(outdir) / f"{global_step:06}_{manifest['top_k']}_{manifest['temperature']}"
    return _continued(DatasetJob(model, split.dataset, folder, n_examples, options, frozenset(), manifest))


def _recorded(options: DatasetOptions) -> dict[str, object]:
    """Entries of the manifest."""
    numbers = {name: float(getattr(options, name)) for name in ("temperature", "top_p", "scale_factor")}
    as_given = ("seed", "window", "greedy", "half_sample", "precision")
    return {**numbers, "top_k": options.top_ks[0], **{name: getattr(options, name) for name in as_given}}


def run_dataset_job(job: DatasetJob, *, progress: bool = True) -> Path:
    """Sample what this process is to make and write it, each file when it is complete; returns the job's folder."""
    job = _start(job)
    remaining = job.remaining()
    batches = iter(remaining)
    with output(job.folder, len(remaining), progress=progress) as (write, bar):
        while indices := list(islice(batches, job.options.batch_size)):
            for folder, images in _sample(job, indices).items():
                for index, image in zip(indices, to_uint8(images), strict=True):
                    write(job.file(folder, index), image)
            bar.update(len(indices))
    return job.folder


@torch.no_grad()
def _sample(job: DatasetJob, indices: Sequence[int]) -> dict[str, Tensor]:
    """Images (b, 3, h, w) for each folder of the job."""
    options, model = job.options, job.model
    batch = encode_batch(
        model,
        _read(job, indices),
        scale_factor=options.scale_factor,
        pictures=options.save_conditioning,
    )
    grid = sample_windowed(
        model,
        batch.condition,
        tuple(batch.tokens.shape[1:]),
        **_given_half(batch) if options.half_sample else {},
        window=options.window,
        temperature=options.temperature,
        top_k=options.top_ks[0],
        top_p=options.top_p,
        sample=not options.greedy,
        uniforms=_uniforms(job, indices, batch.tokens),
    )
    images = {
        "originals": batch.images,
        "reconstructions": model.decode_to_img(batch.tokens, batch.zshape),
        "samples": model.decode_to_img(grid, batch.zshape),
    }
    return images | {CONDITIONING: batch.pictures} if options.save_conditioning else images


def _given_half(batch: EncodedBatch) -> dict[str, object]:
    """Arguments of `sample_windowed` that keep the first half of the tokens."""
    return {"z_init": batch.tokens, "start": batch.tokens[0].numel() // 2}


def _uniforms(job: DatasetJob, indices: Sequence[int], tokens: Tensor) -> Tensor:
    """Random numbers float64 (b, h, w): those of each example's index."""
    keys = [(None, index) for index in indices]
    return sample_uniforms(job.manifest["seed"], keys, tokens[0].numel()).view(tokens.shape)


def _read(job: DatasetJob, indices: Sequence[int]) -> Mapping:
    """The examples as a batch. Random crops and the like are the same whenever an example is read."""
    views = SeededViews(job.dataset, job.manifest["seed"])
    examples = [views[index, 0] for index in indices]
    try:
        return custom_collate(examples)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"examples {indices[0]} to {indices[-1]}: {error}; try --batch_size 1") from error


def _indices(job: DatasetJob, folder: str) -> set[int]:
    """Which files a subfolder holds, also of examples that the job is not about."""
    return {int(path.stem) for path in (job.folder / folder).glob("*.png") if path.stem.isdecimal()}


def _continued(job: DatasetJob) -> DatasetJob:
    """The job with what is finished, and the manifest that goes on from its folder's."""
    held = [_indices(job, folder) for folder in job.folders]
    finished = frozenset(set.intersection(*held) & set(range(job.n_examples)))
    is_fresh = not any(held) and job.options.shard.count == 1  # a job that made nothing binds nobody
    may_replace = job.options.overwrite or is_fresh
    manifest = settle(
        job.folder / MANIFEST,
        job.manifest,
        job.options.shard,
        redo=may_replace and set.union(*held) <= set(range(job.n_examples)),
        has_samples=any(held),
    )
    return replace(job, finished=finished, manifest=manifest)


def _start(job: DatasetJob) -> DatasetJob:
    """Make room for the files, and agree with the other processes on the manifest."""
    with explained(job.folder):
        for folder in job.folders:
            (job.folder / folder).mkdir(parents=True, exist_ok=True)
            for index in _indices(job, folder) if job.options.overwrite else ():
                if index < job.n_examples:
                    job.file(folder, index).unlink(missing_ok=True)
        job = replace(job, manifest=agree(job.folder / MANIFEST, job.manifest, job.options.shard))
        owned = (job.file(folder, index) for index in job.remaining() for folder in job.folders)
        remove_leftovers(job.folder, owned)
    return job
