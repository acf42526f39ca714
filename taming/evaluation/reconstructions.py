"""Reconstructions of a data set by a first stage as files, and how good they are.

<folder>/{originals,reconstructions}/000000.png and so on, codes/000000.npy the codes of each image, int32 (l,) in
row-major order, and sampling.json how all were made. n images, k codebook entries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from taming.data.datamodule import DataModuleFromConfig
from taming.data.seeded import SeededViews
from taming.data.utils import custom_collate
from taming.evaluation.measures import psnr, ssim
from taming.files import atomic_path
from taming.images import from_uint8, to_uint8
from taming.models.first_stage import image_stage_of
from taming.modules.vqvae.codebook import perplexity_of_counts, usage_of_counts
from taming.reports import manifest_of, versions
from taming.sampling.manifest import MANIFEST, agree, continue_manifest, environment
from taming.sampling.options import check_num_samples
from taming.sampling.writers import explained, output, remove_leftovers
from taming.shards import WHOLE, Shard

ORIGINALS, RECONSTRUCTIONS, CODES = "originals", "reconstructions", "codes"
SEED = 0
"""Of random crops and the like, so that an image is the same whenever it is made."""


@dataclass(frozen=True)
class ReconstructionJob:
    """A job, made by `plan_reconstructions`; `remaining` are the examples that this process is to reconstruct."""

    model: nn.Module
    data: DataModuleFromConfig
    folder: Path
    remaining: Sequence[int]
    manifest: Mapping[str, object]
    shard: Shard

    def file(self, folder: str, index: int) -> Path:
        return self.folder / folder / f"{index:06}.{'npy' if folder == CODES else 'png'}"

    def describe(self) -> str:
        """One line: how many images of what, and how many are left."""
        return (
            f"split {self.manifest['split']}: {self.manifest['num_samples']} images, "
            f"{len(self.remaining)} to be reconstructed by {self.manifest['model']} of {self.manifest['run']}"
        )


def plan_reconstructions(
    model: nn.Module,
    data: DataModuleFromConfig,
    outdir: str | Path,
    *,
    num_samples: int | None = None,
    global_step: int = 0,
    run: str | None = None,
    shard: Shard = WHOLE,
) -> ReconstructionJob:
    """The job of reconstructing the examples, or the first `num_samples`, of the only split of `data`.

    `model` is a first stage or has one. Writes nothing yet. Raises ValueError for a model without a first stage of
    images, a stream, and a folder with reconstructions that were made in another way.
    """
    model = image_stage_of(model)
    ((split, dataset),) = data.datasets.items()
    if isinstance(dataset, IterableDataset):
        raise ValueError(f"split {split}: a stream has no order to number images by; give a data set of files")
    if num_samples is not None:
        check_num_samples(num_samples)
    count = len(dataset) if num_samples is None else min(num_samples, len(dataset))
    manifest = {
        "run": run,
        "model": type(model).__name__,
        "global_step": global_step,
        "n_codes": model.quantize.re_embed,
        "split": split,
        "data": OmegaConf.to_container(OmegaConf.create(data.dataset_configs[split]), resolve=True),
        "num_samples": count,
        "seed": SEED,
        **environment(model),
    }
    folder = Path(outdir)
    held = [{path.stem for path in (folder / name).glob("*.png")} for name in (ORIGINALS, RECONSTRUCTIONS)]
    manifest = continue_manifest(folder / MANIFEST, manifest, has_samples=shard.index == 0 and any(held))
    finished = set.intersection(*held)
    remaining = [index for index in shard.part(range(count)) if f"{index:06}" not in finished]
    return ReconstructionJob(model, data, folder, remaining, manifest, shard)


@torch.no_grad()
def run_reconstructions(job: ReconstructionJob, *, progress: bool = True) -> Path:
    """Make what remains, each file appearing when it is complete; returns the job's folder."""
    folders = (ORIGINALS, RECONSTRUCTIONS, CODES)
    with explained(job.folder):
        for folder in folders:
            (job.folder / folder).mkdir(parents=True, exist_ok=True)
        agree(job.folder / MANIFEST, job.manifest, job.shard)
        remove_leftovers(job.folder, (job.file(folder, index) for index in job.remaining for folder in folders))
    remaining = iter(job.remaining)
    with output(job.folder, len(job.remaining), progress=progress) as (write, bar):
        for batch in _batches(job):
            images, reconstructions, codes = reconstruct(job.model, batch)
            indices = list(islice(remaining, len(images)))
            for index, tokens in zip(indices, codes.int().cpu().numpy(), strict=True):
                _save_codes(job.file(CODES, index), tokens)  # before the pictures, which tell that all is there
            for folder, pictures in ((ORIGINALS, images), (RECONSTRUCTIONS, reconstructions)):
                for index, picture in zip(indices, to_uint8(pictures.expand(-1, 3, -1, -1)), strict=True):
                    write(job.file(folder, index), picture)
            bar.update(len(indices))
    return job.folder


def _batches(job: ReconstructionJob) -> DataLoader:
    (dataset,) = job.data.datasets.values()
    return DataLoader(
        SeededViews(dataset, SEED),
        sampler=[(index, 0) for index in job.remaining],
        batch_size=job.data.batch_size,
        num_workers=job.data.num_workers,
        collate_fn=custom_collate,
    )


def reconstruct(model: nn.Module, batch: Mapping) -> tuple[Tensor, Tensor, Tensor]:
    """Images (b, c, h, w) that a first stage reads in a batch, its reconstructions, and its codes (b, l)."""
    if model.image_key not in batch:
        raise ValueError(f"the model reads {model.image_key!r}, but the data have only {', '.join(map(str, batch))}")
    images = model.get_input(batch, model.image_key).to(model.device)
    reconstructions, _, indices = model(images, return_pred_indices=True)
    return images, reconstructions, indices.view(len(images), -1)


def _save_codes(path: Path, codes: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, codes)


def measure_reconstructions(
    folder: Path, *, lpips: Callable[[Tensor, Tensor], Tensor] | None = None, batch_size: int = 16
) -> dict[str, object]:
    """A report of how good the reconstructions of `run_reconstructions` are, as the files have them.

    psnr_db, ssim and (of an `lpips` on the CPU or a device) lpips are means over the images; codebook_usage and
    codebook_perplexity are those of the codes of all images. Raises ValueError if originals and reconstructions do not
    belong together, FileNotFoundError if there are none.
    """
    names = paired_names(folder)
    sums: dict[str, float] = {}
    for part in _parts(names, batch_size):
        originals, reconstructions = (_read(folder / kind, part) for kind in (ORIGINALS, RECONSTRUCTIONS))
        if originals.shape != reconstructions.shape:
            raise ValueError(
                f"{folder}: {part[0]} and those after it are {_size(originals)} as originals and "
                f"{_size(reconstructions)} as reconstructions"
            )
        figures = {"psnr_db": psnr(originals, reconstructions), "ssim": ssim(originals, reconstructions)}
        if lpips is not None:
            figures["lpips"] = _distance(lpips, originals, reconstructions)
        for name, values in figures.items():
            sums[name] = sums.get(name, 0.0) + values.double().sum().item()
    means = {name: total / len(names) for name, total in sums.items()}
    manifest = manifest_of(folder)
    return {
        "metrics": means | _codebook_figures(folder, names, manifest),
        "folder": str(folder),
        "images": len(names),
        "options": {"batch_size": batch_size, "lpips": lpips is not None},
        "preprocessing": "images as the data set gave them, 8-bit RGB",
        "versions": versions("scikit-image", "lpips"),
        "sampling": manifest,
    }


def paired_names(folder: Path) -> list[str]:
    """Names of the files that both folders have, sorted."""
    originals, reconstructions = (
        {path.name for path in (folder / kind).glob("*.png")} for kind in (ORIGINALS, RECONSTRUCTIONS)
    )
    if not originals or not reconstructions:
        raise FileNotFoundError(
            f"{folder}: no {ORIGINALS} and {RECONSTRUCTIONS} in this folder; scripts/make_reconstructions.py makes them"
        )
    unpaired = sorted(originals ^ reconstructions)
    if unpaired:
        raise ValueError(
            f"{folder}: {len(unpaired)} images are without their partner, such as {unpaired[0]}; "
            "finish the job with the same command of scripts/make_reconstructions.py"
        )
    return sorted(originals)


def _parts(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _read(folder: Path, names: Sequence[str]) -> Tensor:
    """Images (n, 3, h, w) in [-1, 1]."""
    arrays = []
    for name in names:
        with Image.open(folder / name) as image:
            arrays.append(np.asarray(image.convert("RGB")))
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(f"{folder}: images of several sizes, {names[0]} and those after it; use --batch_size 1")
    return from_uint8(np.stack(arrays))


def _size(images: Tensor) -> str:
    return f"{images.shape[3]}x{images.shape[2]}"


@torch.no_grad()
def _distance(lpips: Callable[[Tensor, Tensor], Tensor], originals: Tensor, reconstructions: Tensor) -> Tensor:
    """Perceptual distances (n,), where the metric has its weights."""
    device = next(lpips.parameters()).device if isinstance(lpips, nn.Module) else originals.device
    return lpips(originals.to(device), reconstructions.to(device)).flatten().cpu()


def _codebook_figures(folder: Path, names: Sequence[str], manifest: Mapping | None) -> dict[str, float]:
    """Usage and perplexity of the codes; nothing if codes are missing, or nobody knows how many there are."""
    files = [folder / CODES / f"{Path(name).stem}.npy" for name in names]
    n_codes = (manifest or {}).get("n_codes")
    if n_codes is None or not all(file.is_file() for file in files):
        return {}
    counts = np.zeros(n_codes, dtype=np.int64)
    for file in files:
        counts += np.bincount(np.load(file, allow_pickle=False), minlength=n_codes)
    totals = torch.from_numpy(counts)
    return {"codebook_usage": usage_of_counts(totals), "codebook_perplexity": perplexity_of_counts(totals)}
