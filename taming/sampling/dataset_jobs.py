"""A sample for every example of a data set, by windows: originals, reconstructions and samples as PNG files.

An example is named by its index, and its sample depends on the seed and the index only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

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
from taming.sampling.file_jobs import FileJob, continued, start
from taming.sampling.manifest import environment
from taming.sampling.options import JobOptions, TopK, check_num_samples
from taming.sampling.windowed import sample_windowed
from taming.sampling.writers import output

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
class DatasetJob(FileJob):
    """A job, made by `plan_dataset_job`; each example of the data set has a file in every subfolder."""

    dataset: Dataset

    @property
    def subfolders(self) -> tuple[str, ...]:
        return subfolders_of(self.options)

    def describe(self) -> str:
        """One line: how many examples of what, how many are there, and the seed."""
        return f"split {self.manifest['split']}: {len(self.names)} examples{self.progress}"


def subfolders_of(options: DatasetOptions) -> tuple[str, ...]:
    return (*FOLDERS, CONDITIONING) if options.save_conditioning else FOLDERS


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
    names = tuple(f"{index:06}" for index in range(n_examples))
    finished, manifest = continued(folder, names, manifest, options, subfolders=subfolders_of(options))
    return DatasetJob(model, folder, names, options, finished, manifest, split.dataset)


def _recorded(options: DatasetOptions) -> dict[str, object]:
    """Entries of the manifest."""
    numbers = {name: float(getattr(options, name)) for name in ("temperature", "top_p", "scale_factor")}
    as_given = ("seed", "window", "greedy", "half_sample", "precision")
    return {**numbers, "top_k": options.top_ks[0], **{name: getattr(options, name) for name in as_given}}


def run_dataset_job(job: DatasetJob, *, progress: bool = True) -> Path:
    """Sample what this process is to make and write it, each file when it is complete; returns the job's folder."""
    job = start(job)
    remaining = job.remaining()
    batches = iter(remaining)
    with output(job.folder, len(remaining), progress=progress) as (write, bar):
        while indices := list(islice(batches, job.options.batch_size)):
            for folder, images in _sample(job, indices).items():
                for index, image in zip(indices, to_uint8(images), strict=True):
                    write(job.file(index, folder), image)
            bar.update(len(indices))
    return job.folder


@torch.no_grad()
def _sample(job: DatasetJob, indices: Sequence[int]) -> dict[str, Tensor]:
    """Images (b, 3, h, w) for each folder of the job."""
    options, model = job.options, job.model
    batch = encode_batch(
        model,
        read_batch(job.dataset, indices, job.manifest["seed"]),
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


def read_batch(dataset: Dataset, indices: Sequence[int], seed: int) -> Mapping[str, Any]:
    """Examples as a batch. Random crops and the like are the same whenever an example is read with this seed.

    Raises what the data set raises, and ValueError for items that make no batch.
    """
    views = SeededViews(dataset, seed)
    examples = [views[index, 0] for index in indices]
    try:
        return custom_collate(examples)
    except (RuntimeError, TypeError) as error:
        which, remedy = f"example {indices[0]}", ""
        if len(indices) > 1:
            which, remedy = f"examples {indices[0]} to {indices[-1]}", "; try --batch_size 1"
        raise ValueError(f"{which}: {error}{remedy}") from error
