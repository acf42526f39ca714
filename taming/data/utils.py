"""Collation of batches, square crops around boxes, and the small steps that put a dataset on disk."""

import math
import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import default_collate
from tqdm import tqdm

from taming import util
from taming.data.helper_types import Annotation


def custom_collate(batch: Sequence[Any]) -> Any:
    """Batch of samples -> one batched value, as PyTorch's default collation, but lists of `Annotation` stay lists.

    Tensors and arrays are stacked (dtype kept), numbers become tensors, strings stay a list, mappings become a plain
    dict over the first sample's keys, named tuples keep their type, other sequences are collated position by position.
    Raises TypeError for values that cannot be collated (None, objects) and RuntimeError for sequences or tensors of
    unequal size; both name the place inside the batch.
    """
    return _collate(batch, "batch")


def _collate(values: Sequence[Any], place: str) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _collate([value[key] for value in values], f"{place}[{key!r}]") for key in first}
    if isinstance(first, (str, bytes)) or not isinstance(first, Sequence):
        return _collate_leaves(values, place)
    if _are_annotation_lists(values):
        return list(values)
    columns = _columns(values, place)
    return type(first)(*columns) if hasattr(first, "_fields") else columns


def _are_annotation_lists(values: Sequence[Any]) -> bool:
    """Any list that begins with an annotation decides; images without any object have empty lists."""
    if not all(isinstance(value, list) for value in values):
        return False
    return not any(values) or any(value and isinstance(value[0], Annotation) for value in values)


def _columns(values: Sequence[Any], place: str) -> list[Any]:
    lengths = {len(value) for value in values}
    if len(lengths) > 1:
        raise RuntimeError(f"cannot collate {place}: sequences of unequal length {sorted(lengths)}")
    names = getattr(values[0], "_fields", range(len(values[0])))
    columns = zip(*values, strict=True)
    return [_collate(column, f"{place}[{name!r}]") for name, column in zip(names, columns, strict=True)]


def _collate_leaves(values: Sequence[Any], place: str) -> Any:
    try:
        return default_collate(values)
    except (TypeError, RuntimeError) as error:
        kind = TypeError if isinstance(error, TypeError) or any(value is None for value in values) else RuntimeError
        types = sorted({type(value).__name__ for value in values})
        raise kind(f"cannot collate {place}: values of type {', '.join(types)}: {error}") from error


def quadratic_crop(x: np.ndarray, bbox: Sequence[float], alpha: float = 1.0) -> np.ndarray:
    """Square of `x` (H, W, ...) around a box (xmin, ymin, xmax, ymax) in pixels; a copy.

    Its side is `alpha` times the box's longer side, at least 2. Where it might leave the image, the image is continued
    by reflection.
    """
    height, width = x.shape[:2]
    xmin, ymin, xmax, ymax = np.clip(bbox, 0, max(height, width))
    center_x, center_y = (xmin + xmax) / 2, (ymin + ymax) / 2
    side = max(2, int(alpha * max(xmax - xmin, ymax - ymin)))
    # A margin of `side` where half of it would do: published behaviour, which decides what the reflection repeats.
    room = min(center_x - side, center_y - side, width - (center_x + side), height - (center_y + side))
    padding = max(0, math.ceil(-room))
    if padding:
        x = np.pad(x, [(padding, padding), (padding, padding), *[(0, 0)] * (x.ndim - 2)], mode="reflect")
    top, left = int(center_y + padding - side / 2), int(center_x + padding - side / 2)
    return x[top : top + side, left : left + side].copy()


def unpack(path: str | os.PathLike) -> None:
    """Extract a `.tar`, `.tar.gz`, `.tgz` or `.zip` archive into its own folder; NotImplementedError for others.

    Raises what `opened_tar` does, before anything is extracted if one member is unsafe; OSError for a damaged `.zip`.
    """
    path = Path(path)
    if path.name.endswith((".tar", ".tar.gz", ".tgz")):
        with opened_tar(path) as archive:
            for member in archive.getmembers():
                tarfile.data_filter(member, str(path.parent))
            archive.extractall(path.parent, filter="data")
    elif path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(path.parent)  # which keeps members inside
        except (zipfile.BadZipFile, zlib.error) as error:
            raise OSError(f"{path}: damaged or no zip archive: {error}; get it again") from error
    else:
        raise NotImplementedError(f"cannot unpack {path}: suffix '{path.suffix}' is none of .tar, .tar.gz, .tgz, .zip")


@contextmanager
def opened_tar(path: str | os.PathLike) -> Iterator[tarfile.TarFile]:
    """A tar archive to read within the block, which is to filter members by tarfile's "data" filter.

    Raises ValueError where that refuses a member, which would land elsewhere or is a device, and OSError for damage.
    """
    try:
        with tarfile.open(path) as archive:
            yield archive
    except tarfile.FilterError as error:
        raise ValueError(f"{path}: nothing more is extracted, it has an unsafe member: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # before what each format says of it
        raise OSError(f"{path}: damaged or no tar archive: {reason}; get it again") from error


def reporthook(bar: tqdm) -> Callable[..., None]:
    """Hook for `urllib.request.urlretrieve` that shows progress on `bar`."""

    def hook(blocks: int = 1, block_size: int = 1, total: int | None = None) -> None:
        if total is not None:
            bar.total = total
        bar.update(blocks * block_size - bar.n)

    return hook


def get_root(name: str) -> str:
    """The folder `data/<name>` below the current one, created if missing."""
    root = Path("data", name)
    root.mkdir(parents=True, exist_ok=True)
    return str(root)


def is_prepared(root: str | os.PathLike) -> bool:
    """Whether `mark_prepared` was called for this dataset folder."""
    return Path(root, ".ready").exists()


def mark_prepared(root: str | os.PathLike) -> None:
    """Note that the dataset in this folder is complete."""
    Path(root, ".ready").touch()


def prompt_download(
    file_: str, source: str, target_dir: str | os.PathLike, content_dir: str | os.PathLike | None = None
) -> str:
    """Ask for a file that must be fetched by hand until it, or the folder `content_dir` with its content, is there.

    Returns the file's path. Raises FileNotFoundError with the request where nobody can answer (stdin is no terminal).
    """
    target = Path(target_dir, file_)
    request = f"Please download '{file_}' from {source} to {target}"
    present = [target]
    if content_dir is not None:
        present.append(Path(target_dir, content_dir))
        request += f", or place its content in {present[1]}"
    while not any(path.exists() for path in present):
        if not sys.stdin.isatty():
            raise FileNotFoundError(request)
        input(f"{request}, then press Enter ")
    return str(target)


def download_url(file_: str, url: str, target_dir: str | os.PathLike) -> str:
    """Download `url` to `target_dir/file_` and return that path; OSError as `taming.util.download`."""
    target = Path(target_dir, file_)
    util.download(url, target)
    return str(target)


def download_urls(urls: Mapping[str, str], target_dir: str | os.PathLike) -> dict[str, str]:
    """Download every name -> address pair into `target_dir`; returns name -> path."""
    return {name: download_url(name, url, target_dir) for name, url in urls.items()}
