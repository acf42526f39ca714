"""What people hand to the API, files and arrays, in the form that the models read.

b batch, here always 1, (h, w) image, k labels.
"""

import os
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from taming.data._augment import square
from taming.data._io import read_image, read_rgb, to_float
from taming.data.given_maps import read_depth_map, read_label_map
from taming.data.label_maps import one_hot
from taming.models.cond_transformer import Net2NetTransformer

NAME = "taming.api"
"""Who reads, in errors about files."""

ImageSource = str | os.PathLike | Image.Image | np.ndarray
MapSource = str | os.PathLike | Tensor


def square_image(image: ImageSource, size: int) -> Image.Image:
    """RGB image of `size` x `size` pixels: the shorter side scaled down to it (Lanczos), then the middle cut out.

    `image` is a path, a PIL image or uint8 (h, w, 3). Raises ValueError for a smaller image and another array.
    """
    picture, name = _picture(image)
    if min(picture.size) < size:
        size_found = f"{picture.width} x {picture.height} pixels"
        raise ValueError(f"{name}: {size_found} are too few, the shorter side needs {size}")
    scale = size / min(picture.size)
    scaled = picture.resize(tuple(round(side * scale) for side in picture.size), Image.Resampling.LANCZOS)
    return TF.center_crop(scaled, [size, size])


def _picture(image: ImageSource) -> tuple[Image.Image, str]:
    """The image in RGB, and what to call it in errors."""
    if isinstance(image, Image.Image):
        return image.convert("RGB"), "the image"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image as an array is uint8 (h, w, 3), not {image.dtype} {image.shape}")
        return Image.fromarray(image), "the image"
    return Image.fromarray(read_rgb(image, NAME, exif=True)), str(image)


def read_condition(model: Net2NetTransformer, source: MapSource, *, size: int = 256) -> Tensor:
    """Spatial conditioning, float32 (1, k, h, w) as the conditioning stage of `model` reads it, of a file or a tensor.

    The key of the model's conditioning says what a file is: `segmentation`, a label map; `depth`, float32 coded as
    RGBA or grey values, brought to [-1, 1] and cut to a square of `size` pixels; `coord`, grey values for 0 to 1; else
    an image. A tensor is (k, h, w), (h, w) or (1, k, h, w) and stays as it is; integers (h, w) are labels.
    """
    kind = model.cond_stage_key
    if isinstance(source, Tensor):
        is_labels = kind == "segmentation" and not source.is_floating_point()
        return _one(_from_labels(source, n_labels(model)) if is_labels else source, kind)
    reader: Callable[[MapSource], np.ndarray] = {
        "segmentation": lambda path: read_label_map(path, n_labels(model), NAME),
        "depth": lambda path: cut_square(read_depth_map(path, NAME), size)[:, :, None],
        "coord": _read_coordinates,
    }.get(kind, _read_image)
    return _channels_first(reader(source))


def read_picture(model: Net2NetTransformer, source: MapSource, *, size: int = 256) -> Tensor:
    """The image that belongs to the conditioning, float32 (1, 3, h, w) in [-1, 1]; cut as a depth map is."""
    if isinstance(source, Tensor):
        return _one(source, "image")
    pixels = read_rgb(source, NAME)
    return _channels_first(to_float(cut_square(pixels, size) if model.cond_stage_key == "depth" else pixels))


def cut_square(array: np.ndarray, size: int) -> np.ndarray:
    """(h, w, ...) -> (size, size, ...) as the data sets do it: shorter side scaled (bilinear), the middle cut out."""
    rescaler, cropper = square(size, random_crop=False)
    return np.ascontiguousarray(cropper(image=rescaler(image=array)["image"])["image"])


def n_labels(model: Net2NetTransformer) -> int:
    """How many labels a map has that the conditioning stage reads."""
    return model.cond_stage_model.encoder.in_channels


def colour_labels(labels: np.ndarray, k: int) -> np.ndarray:
    """Labels (h, w) below k -> uint8 (h, w, 3), always in the same colours.

    The published notebook's table: normal random numbers (k, 3), seed 1, each column divided by its sum, as [-1, 1].
    """
    table = np.random.RandomState(1).randn(k, 3)
    table /= table.sum(axis=0)
    return ((table + 1) * 127.5).clip(0, 255).astype(np.uint8)[labels]


def _read_coordinates(path: str | os.PathLike) -> np.ndarray:
    """Grey values, of 8 or 16 bits, as float32 (h, w, 1) from 0 to 1."""
    image = read_image(path, NAME)
    is_wide = image.mode == "I" or image.mode.startswith("I;16")
    values = np.asarray(image if is_wide else image.convert("L"), dtype=np.float32) / (65535 if is_wide else 255)
    return values[:, :, None]


def _read_image(path: str | os.PathLike) -> np.ndarray:
    return to_float(read_rgb(path, NAME))


def _from_labels(labels: Tensor, k: int) -> Tensor:
    if labels.ndim == 3 and len(labels) == 1:
        labels = labels[0]
    if labels.ndim != 2 or (labels.numel() and labels.min() < 0):
        raise ValueError(f"labels as a tensor are integers (h, w) from 0 on, not of shape {tuple(labels.shape)}")
    coded = one_hot(labels.cpu().numpy(), k, path="given as a tensor", dataset=NAME, dtype=np.float32)
    return torch.from_numpy(coded).movedim(-1, 0)  # (h, w, k) -> (k, h, w)


def _one(x: Tensor, kind: str) -> Tensor:
    """A single map or image as float32 (1, k, h, w)."""
    if x.ndim == 2:
        x = x[None]
    if x.ndim == 3:
        x = x[None]
    if x.ndim != 4 or len(x) != 1 or not x.is_floating_point():
        raise ValueError(
            f"{kind} as a tensor is one of floats, (k, h, w) or (1, k, h, w), not {x.dtype} {tuple(x.shape)}"
        )
    return x.detach().float()


def _channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).movedim(-1, 0)[None]  # (h, w, k) -> (1, k, h, w)
