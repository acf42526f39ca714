"""Datasets over lists of image files."""

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from taming.data._augment import SeededTransform, albumentations
from taming.data._io import read_npy, read_rgb, to_float


class ConcatDatasetWithIndex(ConcatDataset):
    """Concatenation whose items are (item, index of the dataset it comes from)."""

    def __getitem__(self, idx: int) -> tuple[Any, int]:
        item = super().__getitem__(idx)
        return item, bisect_right(self.cumulative_sizes, idx if idx >= 0 else idx + len(self))


class ImagePaths(Dataset):
    """Images by path, as float32 (H, W, 3) in [-1, 1] under the key `image`, with their labels and `file_path_`.

    With a positive `size` the shorter side is scaled to it (bilinear, no antialiasing) and a square of that size cut
    out, at the centre or, with `random_crop`, anywhere; otherwise images keep their size. `labels` maps further keys to
    sequences indexed like `paths`. `name` stands for the dataset in errors, `hint` ends the one about a missing file;
    `exif` turns images upright. Files are opened when an item is asked for: FileNotFoundError, OSError or ValueError.
    """

    def __init__(
        self,
        paths: Sequence[str],
        size: int | None = None,
        random_crop: bool = False,
        labels: Mapping[str, Sequence[Any]] | None = None,
        *,
        name: str | None = None,
        exif: bool = False,
        hint: str = "",
    ) -> None:
        self.size = size
        self.random_crop = random_crop
        self.labels = {**(labels or {}), "file_path_": paths}
        self.name = name or dotted_name(type(self))
        self.exif = exif
        self.hint = hint
        self._length = len(paths)
        self.preprocessor = _unchanged
        if size is not None and size > 0:
            crop = albumentations.RandomCrop if random_crop else albumentations.CenterCrop
            self.rescaler = albumentations.SmallestMaxSize(max_size=size)
            self.cropper = crop(height=size, width=size)
            pipeline = albumentations.Compose([self.rescaler, self.cropper])
            self.preprocessor = SeededTransform(pipeline) if random_crop else pipeline

    def __len__(self) -> int:
        return self._length

    def preprocess_image(self, image_path: str | os.PathLike) -> np.ndarray:
        """The file as float32 (H, W, 3) in [-1, 1], rescaled and cropped."""
        return self._preprocess(read_rgb(image_path, self.name, self.exif, self.hint))

    def _preprocess(self, image: np.ndarray) -> np.ndarray:
        return to_float(self.preprocessor(image=image)["image"])

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = {"image": self.preprocess_image(self.labels["file_path_"][i])}
        return item | {key: values[i] for key, values in self.labels.items()}


class NumpyPaths(ImagePaths):
    """Images in `.npy` files: (1, 3, H, W), (3, H, W) or (H, W, 3), integers 0 to 255."""

    def preprocess_image(self, image_path: str | os.PathLike) -> np.ndarray:
        """As in `ImagePaths`, from a `.npy` file."""
        return self._preprocess(read_npy(image_path, self.name, self.hint))


def dotted_name(dataset_class: type) -> str:
    """Module and name of a dataset class, as configs write it."""
    return f"{dataset_class.__module__}.{dataset_class.__qualname__}"


def _unchanged(**targets: Any) -> dict[str, Any]:
    return targets
