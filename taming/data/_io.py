"""Reading lists of images, and images as 8-bit RGB, with errors that name the dataset and the file.

Every error is rebuilt from one string, so that it survives the way from a DataLoader worker to the main process.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps

from taming.data import _jpeg

MAX_16_BIT = 65535
ORIENTATION, UPRIGHT = 0x0112, 1
"""EXIF tag that says how to turn an image, and its value for not at all."""
FLOATS = (np.arange(256, dtype=np.float64) / 127.5 - 1.0).astype(np.float32)
"""What 0 to 255 become."""


def read_list(
    path: str | os.PathLike, dataset: str, hint: str = "give a text file with one path per line"
) -> list[str]:
    """Entries of a list file, one per line, UTF-8; blank lines and white space around entries do not count.

    Raises FileNotFoundError (which ends with `hint`) for a missing file, ValueError for one that is empty or not UTF-8.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise FileNotFoundError(f"{dataset}: file not found: {path}; {hint}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{dataset}: list file {path} is not UTF-8 text: {error.reason}") from None
    entries = [line.strip() for line in lines if line.strip()]
    if not entries:
        raise ValueError(f"{dataset}: list file {path} is empty; write one image path per line")
    return entries


def read_rgb(
    path: str | os.PathLike | BinaryIO,
    dataset: str,
    exif: bool = False,
    hint: str = "",
    *,
    draft: int | None = None,
    name: str | None = None,
) -> np.ndarray:
    """First frame of an image file as contiguous uint8 (H, W, 3), whatever its mode; alpha is dropped.

    With `exif` the image is turned upright as its EXIF orientation says. `draft` lets a JPEG be decoded at a half, a
    quarter or an eighth, as long as its shorter side keeps that many pixels. An open file needs a `name` for errors.
    Raises FileNotFoundError (which ends with `hint`) for a missing file, OSError for an unreadable one, ValueError for
    floats outside both 0 to 1 and 0 to 255.
    """
    name = str(path) if name is None else name
    image = _reading(lambda: _load(path, exif, draft), name, dataset, hint)
    if isinstance(image, np.ndarray):
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        gray = _gray_from_16_bit(np.asarray(image))
    elif image.mode == "F":
        gray = _gray_from_float(np.asarray(image), name, dataset)
    elif image.mode in ("LA", "La"):
        gray = np.asarray(image.getchannel(0))
    else:
        return np.array(_rgb_by_pillow(image), order="C")
    return np.repeat(gray[:, :, None], 3, axis=2)


def _load(path: str | os.PathLike | BinaryIO, exif: bool, draft: int | None) -> Image.Image | np.ndarray:
    """The image as Pillow has it or, where that is faster and the same, its pixels, uint8 (H, W, 3)."""
    with Image.open(path) as image:
        shrink = _jpeg.shrink_for(image, draft)
        turned = exif and image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
        pixels = None if turned else _jpeg.decode(image, shrink)
        if pixels is not None:
            return pixels
        if shrink > 1:
            image.draft(image.mode, tuple(side // shrink for side in image.size))
        image.load()
        return ImageOps.exif_transpose(image) if turned else image


def read_image(path: str | os.PathLike, dataset: str, hint: str = "") -> Image.Image:
    """First frame of an image file as it is, loaded. Raises FileNotFoundError or OSError as `read_rgb` does."""

    def load() -> Image.Image:
        with Image.open(path) as image:
            image.load()
            return image

    return _reading(load, path, dataset, hint)


def _reading(load: Callable[[], Any], path: str | os.PathLike, dataset: str, hint: str) -> Any:
    """What `load()` returns, its failures told in one line."""
    try:
        return load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{dataset}: file not found: {path}{hint and f'; {hint}'}") from None
    # Decoders report damaged files in all these ways.
    except (
        OSError,
        EOFError,
        ValueError,
        SyntaxError,
        TokenError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{dataset}: cannot read image {path}: {reason}") from error


def _rgb_by_pillow(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        # Pillow converts the entry that stands for transparency well only on the way through RGBA.
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


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

    stored = _reading(load, path, dataset, hint)
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
    """Values 0 to 255, (h, w, c) -> float32 in [-1, 1], rounded once, from double precision."""
    if image.dtype == np.uint8 and image.ndim == 3:
        return cv2.LUT(image, FLOATS)
    return (image.astype(np.float64) / 127.5 - 1.0).astype(np.float32)
