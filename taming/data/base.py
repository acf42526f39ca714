"""Datasets over lists of image files."""

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from taming.data._augment import pipeline, square
from taming.data._io import read_npy, read_rgb, to_float
from taming.data.faults import FaultPolicy, dotted_name
from taming.data.image_cache import ImageCache

MAX_PIXELS = 1 << 26
"""What a narrow image may grow to when its shorter side is scaled up; three bytes each."""


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

    `on_error="skip"` puts another item in the place of one that cannot be read; see `FaultPolicy`. The next two
    need a `size`. `draft` decodes a JPEG at a half, a quarter or an eighth if that is at least `size`: faster, but the
    pixels differ, being averages of several. `cache_dir` keeps rescaled images, whose pixels are the same, in a folder
    that takes three bytes a pixel; see `ImageCache`.
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
        on_error: str = "raise",
        draft: bool = False,
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        self.size = size
        self.random_crop = random_crop
        self.labels = {**(labels or {}), "file_path_": paths}
        self.name = name or dotted_name(type(self))
        self.exif = exif
        self.hint = hint
        self.draft = draft
        self._length = len(paths)
        self.faults = FaultPolicy(on_error, self.name, self._length)
        self.preprocessor = pipeline([], random_crop=random_crop)
        self.cache = None
        if size is not None and size > 0:
            self.rescaler, self.cropper = square(size, random_crop=random_crop)
            self.preprocessor = pipeline([self.rescaler, self.cropper], random_crop=random_crop)
            if cache_dir is not None:
                self.cache = ImageCache(cache_dir, f"{self._load.__qualname__} {size} {exif} {draft}")
        elif draft or cache_dir is not None:
            raise ValueError(
                f"{self.name}: {'draft' if draft else 'cache_dir'} is for images that are scaled down, size is {size}"
            )

    def __len__(self) -> int:
        return self._length

    def preprocess_image(self, image_path: str | os.PathLike) -> np.ndarray:
        """The file as float32 (H, W, 3) in [-1, 1], rescaled and cropped."""
        if self.cache is not None:
            return self._preprocess(self.cache.get(image_path, self._load_rescaled))
        return self._preprocess(self._load_checked(image_path))

    def _load(self, path: str | os.PathLike) -> np.ndarray:
        """The pixels of a file, uint8 (H, W, 3)."""
        return read_rgb(path, self.name, self.exif, self.hint, draft=self.size if self.draft else None)

    def _load_checked(self, path: str | os.PathLike) -> np.ndarray:
        image = self._load(path)
        check_shape(image, self.size, path=path, dataset=self.name)
        return image

    def _load_rescaled(self, path: str | os.PathLike) -> np.ndarray:
        return self.rescaler(image=self._load_checked(path))["image"]

    def _preprocess(self, image: np.ndarray) -> np.ndarray:
        """A rescaled image goes the same way as one that is not: rescaling leaves it alone."""
        return to_float(self.preprocessor(image=image)["image"])

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.faults.item(self._item, i)

    def _item(self, i: int) -> dict[str, Any]:
        item = {"image": self.preprocess_image(self.labels["file_path_"][i])}
        return item | {key: values[i] for key, values in self.labels.items()}


class NumpyPaths(ImagePaths):
    """Images in `.npy` files: (1, 3, H, W), (3, H, W) or (H, W, 3), integers 0 to 255."""

    def _load(self, path: str | os.PathLike) -> np.ndarray:
        return read_npy(path, self.name, self.hint)


def check_shape(image: np.ndarray, size: int | None, *, path: str | os.PathLike, dataset: str) -> None:
    """Raise ValueError for a strip (H, W, 3) that scaling its shorter side up to `size` would make too long."""
    shorter, longer = sorted(image.shape[:2])
    if size and size > 0 and size**2 * longer > MAX_PIXELS * shorter:
        height, width = image.shape[:2]
        raise ValueError(
            f"{dataset}: image {path} of {width} x {height} pixels would be {size * longer // shorter} pixels long at "
            f"a shorter side of size={size}; leave it out"
        )
