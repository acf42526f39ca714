"""Folders of images that are compared as wholes, and references that have a name instead of a folder."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from taming.data.folder_scan import list_files
from taming.files import atomic_path
from taming.util import sha256_hash

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
LOSSY = frozenset({".jpg", ".jpeg"})
THREADS = 8


class ImageSet(Dataset):
    """Images of one size (width, height) in a folder, uint8 (3, h, w), in the order of their paths."""

    def __init__(self, folder: Path, files: Sequence[Path], size: tuple[int, int]) -> None:
        self.folder = folder
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        pixels = _reading(self.files[index], lambda image: np.array(image.convert("RGB")))
        return torch.from_numpy(pixels).permute(2, 0, 1)  # (h, w, 3) -> (3, h, w)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what all files hold, in their order; their names do not count."""
        with ThreadPoolExecutor(THREADS) as pool:
            return hashlib.sha256("".join(pool.map(sha256_hash, self.files)).encode()).hexdigest()

    @property
    def has_lossy_files(self) -> bool:
        return any(file.suffix.lower() in LOSSY for file in self.files)

    def describe(self) -> dict[str, object]:
        """Facts for a report."""
        facts = {"images": len(self), "size": shown(self.size), "sha256": self.digest}
        return {"folder": str(self.folder), **facts}


class NamedSet(Dataset):
    """A set whose images are not at hand, but what was computed of it is, by its `digest`."""

    has_lossy_files = False

    def __init__(self, name: str, count: int, size: tuple[int, int], digest: str) -> None:
        self.name = name
        self.count = count
        self.size = size
        self.digest = digest

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        raise ValueError(
            f"{self.name}: nothing was kept of this reference for these metrics and this network; "
            "give the folder of its images instead"
        )

    def describe(self) -> dict[str, object]:
        """Facts for a report."""
        return {"name": self.name, "images": len(self), "size": shown(self.size), "sha256": self.digest}


def find_images(folder: Path, *, recursive: bool = False) -> ImageSet:
    """The PNG and JPEG files of a folder, or with `recursive` also of the folders in it.

    Raises FileNotFoundError for no folder, ValueError for no images or images of several sizes, OSError for files that
    are none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of images")
    names = list_files(folder, SUFFIXES)
    here = names if recursive else [name for name in names if "/" not in name]
    if not here:
        hint = "those of its subfolders are read with --recursive" if names else "looked for PNG and JPEG files"
        raise ValueError(f"{folder}: no images in this folder; {hint}")
    files = sorted((folder / name for name in here), key=os.path.realpath)  # torch-fidelity's order
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = dict(zip(files, pool.map(_size_of, files), strict=True))
    first = files[0]
    other = next((file for file in files if sizes[file] != sizes[first]), None)
    if other is not None:
        one, another = (f"{file.relative_to(folder)} has {shown(sizes[file])}" for file in (first, other))
        raise ValueError(
            f"{folder}: images of several sizes, {one} and {another}; make them one size, for example by "
            "scripts/evaluate.py prepare"
        )
    return ImageSet(folder, files, sizes[first])


def _size_of(path: Path) -> tuple[int, int]:
    return _reading(path, lambda image: image.size)


def _reading(path: Path, read: Callable[[Image.Image], Any]) -> Any:
    try:
        with Image.open(path) as image:
            return read(image)
    except OSError as error:
        raise OSError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error


def shown(size: tuple[int, int]) -> str:
    """256x256."""
    return f"{size[0]}x{size[1]}"


def find_reference(where: str | Path, cache: Path, *, recursive: bool = False) -> ImageSet | NamedSet:
    """The images of a folder, or what `name_reference` has named.

    Raises FileNotFoundError if it is neither, and what `find_images` raises.
    """
    if Path(where).is_dir():
        return find_images(Path(where), recursive=recursive)
    record = cache / f"{where}.json"
    if not record.is_file():
        names = ", ".join(sorted(path.stem for path in cache.glob("*.json")))
        raise FileNotFoundError(f"{where}: neither a folder nor a name; in {cache} are {names or 'no names'}")
    try:
        facts = json.loads(record.read_text())
        return NamedSet(str(where), facts["images"], tuple(facts["size"]), facts["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record}: damaged ({error}); delete it, and give the folder of images") from error


def check_name(name: str) -> None:
    """Raises ValueError for a name that is none for a file."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ValueError(f"--name {name}: a name consists of letters, digits and ._-")


def name_reference(name: str, reference: ImageSet | NamedSet, cache: Path) -> None:
    """Let `name` stand for a reference from now on, as far as the folder `cache` has what is asked for of it."""
    check_name(name)
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_path(cache / f"{name}.json") as path:
        facts = {"images": len(reference), "size": reference.size, "sha256": reference.digest}
        path.write_text(json.dumps(facts) + "\n")
