"""Finding images and reading them as 8-bit RGB, with errors that name the dataset and the file.

Every error is rebuilt from one string, so that it survives the way from a DataLoader worker to the main process.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_16_BIT = 65535


def read_list(path: str | os.PathLike, dataset: str) -> list[str]:
    """Entries of a list file, one per line, UTF-8; blank lines and white space around entries do not count.

    Raises FileNotFoundError for a missing file, ValueError for one that is empty or not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{dataset}: file not found: {path}; give a text file with one image path per line, or a folder of images"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{dataset}: list file {path} is not UTF-8 text: {error.reason}") from None
    entries = [line.strip() for line in lines if line.strip()]
    if not entries:
        raise ValueError(f"{dataset}: list file {path} is empty; write one image path per line")
    return entries


def list_images(folder: str | os.PathLike, dataset: str) -> list[str]:
    """Sorted paths (relative, with `/`) of all images below `folder`; hidden files and folders are skipped.

    Linked folders are followed, but no folder is read twice. Raises ValueError where there is no image.
    """
    found = []
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            found += [Path(parent, name) for name in files if _is_image(name)]
        seen.add(real)
    if not found:
        raise ValueError(f"{dataset}: no images below {folder}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def read_rgb(path: str | os.PathLike, dataset: str, exif: bool = False, hint: str = "") -> np.ndarray:
    """First frame of an image file as contiguous uint8 (H, W, 3), whatever its mode; alpha is dropped.

    With `exif` the image is turned upright as its EXIF orientation says. Raises FileNotFoundError (which ends with
    `hint`) for a missing file, OSError for an unreadable one, ValueError for floats outside both 0 to 1 and 0 to 255.
    """

    def load() -> Image.Image:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image) if exif else image

    image = reading(load, path, dataset, hint)
    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = _gray_from_16_bit(np.asarray(image))
    elif image.mode == "F":
        gray = _gray_from_float(np.asarray(image), path, dataset)
    elif image.mode in ("LA", "La"):
        gray = np.asarray(image.getchannel(0))
    else:
        return np.array(_rgb_by_pillow(image), order="C")
    return np.repeat(gray[:, :, None], 3, axis=2)


def reading(load: Callable[[], Any], path: str | os.PathLike, dataset: str, hint: str) -> Any:
    """What `load()` returns, its failures told in one line."""
    try:
        return load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{dataset}: file not found: {path}{hint and f'; {hint}'}") from None
    # Decoders report damaged files in all these ways.
    except (OSError, EOFError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{dataset}: cannot read image {path}: {reason}") from error


def _rgb_by_pillow(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        # Pillow converts the entry that stands for transparency well only on the way through RGBA.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _gray_from_16_bit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.int64).clip(0, MAX_16_BIT)
    return ((values * 255 + MAX_16_BIT // 2) // MAX_16_BIT).astype(np.uint8)


def _gray_from_float(values: np.ndarray, path: str | os.PathLike, dataset: str) -> np.ndarray:
    low, high = values.min(), values.max()
    # NaN fails both comparisons.
    if not (low >= 0 and high <= 255):
        raise ValueError(f"{dataset}: float image {path} has values from {low} to {high}; expected 0 to 1 or 0 to 255")
    return np.round(values * 255 if high <= 1 else values).astype(np.uint8)


def read_npy(path: str | os.PathLike, dataset: str, hint: str = "") -> np.ndarray:
    """Image in a `.npy` file, (1, 3, H, W), (3, H, W) or (H, W, 3) integers 0 to 255, as uint8 (H, W, 3).

    Raises FileNotFoundError for a missing file, OSError for an unreadable one, ValueError for other content.
    """

    def load() -> np.ndarray:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    stored = reading(load, path, dataset, hint)
    array = stored[0] if stored.ndim == 4 and stored.shape[0] == 1 else stored
    if array.ndim == 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)  # (3, h, w) -> (h, w, 3)
    elif stored.ndim != 3 or array.shape[2] != 3:
        array = None
    if array is None or array.size == 0 or array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"{dataset}: {path} holds an array of shape {stored.shape} and type {stored.dtype};"
            " expected (1, 3, H, W), (3, H, W) or (H, W, 3) of integers 0 to 255"
        )
    return np.ascontiguousarray(array, dtype=np.uint8)


def to_float(image: np.ndarray) -> np.ndarray:
    """Values 0 to 255 -> float32 in [-1, 1], rounded once, from double precision."""
    return (image.astype(np.float64) / 127.5 - 1.0).astype(np.float32)
