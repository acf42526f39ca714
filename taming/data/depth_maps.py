"""Depth maps: PNGs of four bytes per pixel that make one float, and their form in [-1, 1].

The values are inverse depths as MiDaS predicts them: of any scale (0 to 7000 or so), larger where it is nearer.
"""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from taming.data._io import read_image
from taming.files import atomic_path

MIN_RANGE = np.float32(1e-8)
"""What a map's values are divided by at least."""

GREY = ("1", "L", "I", "F")
"""Modes of images with one value per pixel, beside those of 16 bits."""


def rgba_to_depth(x: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 4) -> float32 (H, W): R, G, B, A are the bytes of a little-endian float. Else ValueError."""
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] != 4:
        raise ValueError(f"depth is coded in uint8 (H, W, 4), not in {x.dtype} {x.shape}")
    floats = np.ascontiguousarray(x).view("<f4")  # (h, w, 4) bytes -> (h, w, 1) floats
    return floats[:, :, 0].astype(np.float32)


def depth_to_rgba(x: np.ndarray) -> np.ndarray:
    """float32 (H, W) -> uint8 (H, W, 4), the exact inverse of `rgba_to_depth`. Anything else is a ValueError."""
    if x.dtype != np.float32 or x.ndim != 2:
        raise ValueError(f"depth to code must be float32 (H, W), not {x.dtype} {x.shape}")
    return np.ascontiguousarray(x, dtype="<f4")[:, :, None].view(np.uint8)  # (h, w, 1) floats -> (h, w, 4) bytes


def normalize_depth(depth: np.ndarray) -> np.ndarray:
    """float32 (H, W) of any scale -> float32 in [-1, 1]: the farthest is -1, the nearest 1, a constant map all -1."""
    low, high = depth.min(), depth.max()
    return 2 * ((depth - low) / np.maximum(MIN_RANGE, high - low)) - 1


def read_depth(path: str | os.PathLike, dataset: str, hint: str = "", *, grey: bool = False) -> np.ndarray:
    """The depths in a PNG, float32 (H, W); with `grey`, also the grey values of an image of any depth.

    Raises FileNotFoundError (which ends with `hint`) for a missing file, OSError for an unreadable one, and ValueError
    for one that holds no depth: another mode than RGBA, or values that are no finite numbers, as from other pictures.
    """
    image = read_image(path, dataset, hint)
    is_grey = grey and (image.mode in GREY or image.mode.startswith("I;16"))
    if image.mode != "RGBA" and not is_grey:
        others = ", as scripts/extract_depth.py does, or grey values that are brighter where it is nearer"
        raise ValueError(
            f"{dataset}: depth map {path} has mode {image.mode}; expected floats coded as RGBA{others if grey else ''}"
        )
    depth = np.asarray(image).astype(np.float32) if is_grey else rgba_to_depth(np.asarray(image))
    if not np.isfinite(depth).all():
        raise ValueError(f"{dataset}: {path} holds values that are no finite numbers; it is no depth map coded as RGBA")
    return depth


def save_depth(path: str | os.PathLike, depth: np.ndarray) -> None:
    """Write float32 (H, W) as the PNG that `read_depth` reads; its folder is created, the file appears when complete.

    Raises ValueError for values that are no finite numbers.
    """
    if not np.isfinite(depth).all():
        raise ValueError(f"{path}: depths to save must be finite numbers")
    coded = depth_to_rgba(depth)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(coded).save(temporary, format="PNG")
