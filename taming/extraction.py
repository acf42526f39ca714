"""The frozen tokenizers of a second stage run once over its data: codes on disk, which it then trains on.

A view of an example is what the data set yields under random numbers that depend on the seed, the index and the view
only, and batches begin anew with each shard. So the files of a shard are the same whatever process writes them, and
whenever.
"""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from taming.config import SPLITS
from taming.data.datamodule import DataModuleFromConfig
from taming.data.seeded import SeededViews
from taming.data.token_files import (
    KINDS,
    METADATA,
    TokenMetadata,
    read_metadata,
    shard_problems,
    write_metadata,
    write_shard,
)
from taming.data.utils import custom_collate
from taming.files import atomic_path
from taming.models.cached_batches import SHOWN_DIGITS, tokenizer_hash
from taming.models.cond_transformer import Net2NetTransformer
from taming.shards import Shard

TRAIN = "train"
"""The split that has several views."""
MAY_DIFFER = ("model", "command", "versions")
"""Entries of the metadata in which two jobs for one folder may differ; the tokenizer's hash says what matters."""


class ShardBatches(Sampler[list[tuple[int, int]]]):
    """The (index, view) pairs of some shards in batches that begin anew with each shard."""

    def __init__(self, metadata: TokenMetadata, shards: Sequence[int], batch_size: int) -> None:
        self.metadata = metadata
        self.shards = shards
        self.batch_size = batch_size

    def __len__(self) -> int:
        return sum(map(self.batches_of, self.shards))

    def batches_of(self, shard: int) -> int:
        """Number of batches in a shard."""
        return -(-len(self.metadata.examples_of(shard)) * self.metadata.views // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for shard in self.shards:
            pairs = product(self.metadata.examples_of(shard), range(self.metadata.views))
            while batch := list(islice(pairs, self.batch_size)):
                yield batch


class Encoded(NamedTuple):
    """Codes of a batch, int64 (b, l) in row-major order and (b, m), and the shapes that they come from."""

    image: np.ndarray
    cond: np.ndarray
    latent_shape: list[int]
    cond_shape: list[int]


@torch.no_grad()
def encode(model: Net2NetTransformer, batch: Mapping) -> Encoded:
    """The codes that the model would make of a batch while it trains."""
    x, c = (tensor.to(model.device) for tensor in model.get_xc(batch))
    quant_z, permuted = model.encode_to_z(x)
    quant_c, cond = model.encode_to_c(c)
    image = model.permuter(permuted, reverse=True)
    return Encoded(image.cpu().numpy(), cond.cpu().numpy(), list(quant_z.shape[1:]), list(quant_c.shape[1:]))


@dataclass(frozen=True)
class Extraction:
    """The codes of one split that are to be in a folder, and what makes them; from `plan_extraction`.

    str() of it says what the folder holds.
    """

    model: Net2NetTransformer
    dataset: Dataset
    folder: Path
    metadata: TokenMetadata
    batch_size: int
    num_workers: int

    def unfinished(self) -> list[int]:
        """Shards that are missing or damaged."""
        return list(shard_problems(self.folder, self.metadata))

    def __str__(self) -> str:
        facts, (_, h, w) = self.metadata, self.metadata.latent_shape
        sizes = f"{h} x {w} latents, {facts.image_tokens} image and {facts.cond_tokens} conditioning tokens"
        left = len(self.unfinished())
        rest = f"; {left} of {facts.n_shards} shards are left to other processes" if left else ""
        return f"{self.folder}: {facts.examples} images x {facts.views} views, {sizes}{rest}"


def plan_extractions(
    model: Net2NetTransformer, data: DataModuleFromConfig, config: DictConfig, outdir: Path, *, views: int, **options
) -> list[Extraction]:
    """A job for each split of `data`, whose config is `config`, with a folder each in `outdir`.

    Training images have `views` views, those of other splits one. `options` are others of `plan_extraction`.
    """
    return [
        plan_extraction(
            model,
            dataset,
            outdir / split,
            split=split,
            views=views if split == TRAIN else 1,
            batch_size=data.batch_size,
            num_workers=data.num_workers,
            data=OmegaConf.to_container(config.data.params[split], resolve=True),
            config=OmegaConf.to_container(config.model, resolve=True),
            **options,
        )
        for split, dataset in data.datasets.items()
    ]


def plan_extraction(
    model: Net2NetTransformer,
    dataset: Dataset,
    folder: Path,
    *,
    split: str = TRAIN,
    views: int = 1,
    seed: int = 0,
    shard_size: int = 512,
    precision: str = "32",
    batch_size: int = 1,
    num_workers: int = 0,
    data: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    command: str = "",
) -> Extraction:
    """The job of encoding `views` views of each example of a data set; writes nothing yet.

    data and config (of the data set and of the model), precision and command are recorded. One example is encoded to
    learn the shapes. Raises ValueError for numbers out of range and for a folder that holds codes of another job.
    """
    for name, number in (("views", views), ("shard_size", shard_size), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} must be positive, not {number}")
    metadata = TokenMetadata(
        split=split,
        examples=len(dataset),
        views=views,
        shard_size=shard_size,
        seed=seed,
        precision=precision,
        data=_as_in_json(data),
        model=_as_in_json(config),
        command=command,
        **_facts(model, SeededViews(dataset, seed)[0, 0]),
    )
    _check_same_job(folder, metadata)
    return Extraction(model, dataset, folder, metadata, batch_size, num_workers)


def _facts(model: Net2NetTransformer, example: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that follow from the model and an example."""
    encoded = encode(model, custom_collate([example]))
    return {
        "vocabulary": model.transformer.config.vocab_size,
        "image_tokens": encoded.image.shape[1],
        "latent_shape": encoded.latent_shape,
        "cond_tokens": encoded.cond.shape[1],
        "cond_shape": encoded.cond_shape,
        "tokenizer": tokenizer_hash(model),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def _as_in_json(section: Mapping[str, Any] | None) -> dict[str, Any]:
    return json.loads(json.dumps(section or {}, default=str))


def _check_same_job(folder: Path, metadata: TokenMetadata) -> None:
    """Raise ValueError if `folder` holds codes that are not of this job."""
    if not (folder / METADATA).is_file():
        if any(folder.glob(f"*.{KINDS[0]}.npy")):
            raise ValueError(f"{folder}: shards without {METADATA}, so nobody knows of what; extract to another folder")
        return
    old = read_metadata(folder)
    for name, value in vars(metadata).items():
        before = getattr(old, name)
        if name in MAY_DIFFER or before == value:
            continue
        if name == "tokenizer":
            before, value = before[:SHOWN_DIGITS], value[:SHOWN_DIGITS]
        raise ValueError(
            f"{folder / METADATA}: the codes there were made with {name}={before}, not {value}; keep that, or extract "
            "to another folder"
        )


def run_extraction(extraction: Extraction, *, share: Shard | None = None, progress: bool = True) -> int:
    """Encode and write the unfinished shards, or this process's `share` of them; returns how many.

    A shard appears when it is complete: what an interruption leaves is continued by planning the job again. Raises
    ValueError for images that differ in size.
    """
    metadata, folder = extraction.metadata, extraction.folder
    if not (folder / METADATA).is_file():
        write_metadata(folder, metadata)
    unfinished = set(extraction.unfinished())
    mine = [shard for shard in (share or Shard()).part(range(metadata.n_shards)) if shard in unfinished]
    batches = ShardBatches(metadata, mine, extraction.batch_size)
    total = sum(len(metadata.examples_of(shard)) for shard in mine) * metadata.views
    with tqdm(total=total, desc=metadata.split, unit="image", disable=not progress or not mine) as bar:
        encoded = _encoded(extraction, batches, bar)
        for shard in mine:
            parts = list(islice(encoded, batches.batches_of(shard)))
            codes = {kind: np.concatenate([getattr(part, kind) for part in parts]) for kind in KINDS}
            write_shard(folder, metadata, shard, codes)
    return len(mine)


def _encoded(extraction: Extraction, batches: ShardBatches, bar: tqdm) -> Iterator[Encoded]:
    metadata = extraction.metadata
    loader = DataLoader(
        SeededViews(extraction.dataset, metadata.seed),
        batch_sampler=batches,
        num_workers=extraction.num_workers,
        collate_fn=custom_collate,
        pin_memory=extraction.model.device.type == "cuda",
    )
    for batch in loader:
        result = encode(extraction.model, batch)
        _check_shapes(metadata, result)
        bar.update(len(result.image))
        yield result


def _check_shapes(metadata: TokenMetadata, result: Encoded) -> None:
    expected, found = (metadata.latent_shape, metadata.cond_shape), (result.latent_shape, result.cond_shape)
    if found != expected:
        raise ValueError(
            f"data.params.{metadata.split}: latents of an example are {found[0]} and those of its conditioning "
            f"{found[1]}, of the first one {expected[0]} and {expected[1]}; codes need images of one size: set the "
            "data set's size"
        )


def training_config(config: DictConfig, outdir: Path) -> DictConfig:
    """The config with the splits that have a folder of codes in `outdir` read from there; everything else as it was."""
    changed = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    for split in SPLITS:
        folder = outdir / split
        if changed.data.params.get(split) is not None and (folder / METADATA).is_file():
            params = {"folder": str(folder)}
            changed.data.params[split] = {"target": "taming.data.tokens.CachedTokens", "params": params}
    return changed


def save_training_config(config: DictConfig, outdir: Path) -> tuple[Path, str]:
    """Write `training_config` to config.yaml in `outdir`; its path, and its data section as text."""
    changed = training_config(config, outdir)
    with atomic_path(outdir / "config.yaml") as path:
        path.write_text(OmegaConf.to_yaml(changed), encoding="utf-8")
    return outdir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create({"data": changed.data}))
