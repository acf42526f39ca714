"""What the datasets over ImageNet do to images: pipelines for an image and its companions, degradation, edges."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from taming.data._augment import albumentations, pipeline, square

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def get_preprocessor(
    size: int | None = None,
    random_crop: bool = False,
    additional_targets: Mapping[str, str] | None = None,
    crop_size: int | None = None,
) -> Callable[..., dict[str, Any]]:
    """A pipeline that is called with keywords, `image=` and others of `additional_targets`, and returns them all.

    With a positive `size`: scale the shorter side to it, cut a square; a random one may be mirrored. Otherwise with a
    positive `crop_size`: cut a square of that size, never mirrored. Otherwise nothing is done.
    """
    steps = []
    if size is not None and size > 0:
        steps = [*square(size, random_crop=random_crop)]
        if random_crop:
            steps.append(albumentations.HorizontalFlip(p=0.5))
    elif crop_size is not None and crop_size > 0:
        steps = [square(crop_size, random_crop=random_crop)[1]]
    return pipeline(steps, random_crop=random_crop, additional_targets=additional_targets)


def imscale(x: np.ndarray, factor: int | None, keepshapes: bool = False, keepmode: str = "bicubic") -> np.ndarray:
    """Image (H, W, 3) of floats in [-1, 1], smaller by a whole factor; with `keepshapes` enlarged again by `keepmode`.

    Factor None or 1 changes nothing. It is the 8-bit image that is resized, by Pillow's antialiased bicubic filter.
    Raises ValueError for other arrays, an unknown mode, or a factor that leaves no pixel.
    """
    if factor is None or factor == 1:
        return x
    if x.dtype not in (np.float32, np.float64) or x.ndim != 3 or x.shape[2] != 3:
        raise ValueError(f"imscale expects float32 or float64 (H, W, 3), not {x.dtype} {x.shape}")
    if keepmode not in RESAMPLING:
        raise ValueError(f"unknown keep_mode {keepmode!r}; choose from {', '.join(RESAMPLING)}")
    height, width = x.shape[:2]
    small = (width // factor, height // factor)
    if min(small) <= 0:
        raise ValueError(f"an image of {width} x {height} pixels cannot be made smaller by a factor of {factor}")
    image = Image.fromarray(np.clip((x + 1) * 127.5, 0, 255).astype(np.uint8))
    image = image.resize(small, Image.Resampling.BICUBIC)
    if keepshapes:
        image = image.resize((width, height), RESAMPLING[keepmode])
    return (np.asarray(image) / 127.5 - 1.0).astype(x.dtype)


def canny_edges(image: np.ndarray) -> np.ndarray:
    """Edges of an image (H, W, 3) in [-1, 1] as float32 (H, W, 3) of 0 and 1, by scikit-image's Canny, sigma 2."""
    feature, color = require_skimage()
    edges = feature.canny(color.rgb2gray(image), sigma=2).astype(np.float32)
    return np.repeat(edges[:, :, None], 3, axis=2)  # (h, w) -> (h, w, 3)


def require_skimage() -> tuple[Any, Any]:
    """scikit-image's `feature` and `color`; ImportError with the remedy where it is missing."""
    try:
        from skimage import color, feature
    except ImportError as error:
        raise ImportError(f"edges need scikit-image: pip install scikit-image ({error})") from error
    return feature, color
