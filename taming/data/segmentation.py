"""What the datasets of images with segmentations share: one geometry for both, and errors that name both files."""

import os
import re

import cv2
import numpy as np
from numpy.typing import DTypeLike
from torch.utils.data import Dataset

from taming.data._augment import albumentations, pipeline, square
from taming.data._io import read_rgb, to_float
from taming.data.base import dotted_name
from taming.data.label_maps import one_hot, read_labels, shift
from taming.data.sizes import check_room, check_same_size

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}


class PairedDataset(Dataset):
    """Images, each with a segmentation: both are rescaled, each in its own way, then cut to the same window.

    A subclass chooses the geometry with `_set_geometry` and reads pairs with `_read_labelled`. `name` stands for the
    dataset in errors.
    """

    def __init__(self) -> None:
        self.name = dotted_name(type(self))

    def _set_geometry(
        self,
        size: int | None,
        crop_size: int | None,
        *,
        random_crop: bool,
        interpolation: str,
        segmentation_interpolation: str = "nearest",
        keep_aspect: bool = True,
    ) -> None:
        """Scale the shorter side, or without `keep_aspect` both, to `size`, then cut a square of `crop_size`.

        None, or what is not positive, leaves out a step. Raises ValueError for an unknown interpolation.
        """
        self.size = _positive(size)
        self.crop_size = _positive(crop_size)
        self.interpolation = self._interpolation(interpolation)
        self.center_crop = not random_crop
        self.image_rescaler = self.segmentation_rescaler = self.cropper = self.preprocessor = None
        if self.size is not None:
            self.image_rescaler = _rescaler(self.size, self.interpolation, keep_aspect)
            self.segmentation_rescaler = _rescaler(
                self.size, self._interpolation(segmentation_interpolation), keep_aspect
            )
        if self.crop_size is not None:
            _, self.cropper = square(self.crop_size, random_crop=random_crop)
            self.preprocessor = pipeline([self.cropper], random_crop=random_crop)

    def _interpolation(self, interpolation: str) -> int:
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"{self.name}: unknown interpolation {interpolation!r}; choose from {', '.join(INTERPOLATIONS)}"
            )
        return INTERPOLATIONS[interpolation]

    def _read_labelled(
        self,
        image_path: str | os.PathLike,
        segmentation_path: str | os.PathLike,
        *,
        n_labels: int,
        shift_labels: bool = False,
        dtype: DTypeLike = np.float64,
        hints: tuple[str, str] = ("", ""),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image float32 (h, w, 3) in [-1, 1], one-hot labels (h, w, n_labels); `hints` end errors of missing files."""
        image = read_rgb(image_path, self.name, hint=hints[0])
        labels = read_labels(segmentation_path, self.name, hints[1])
        labels = shift(labels) if shift_labels else labels
        image, labels = self._preprocess(image, labels, image_path=image_path, segmentation_path=segmentation_path)
        return to_float(image), one_hot(labels, n_labels, path=segmentation_path, dataset=self.name, dtype=dtype)

    def _preprocess(
        self,
        image: np.ndarray,
        segmentation: np.ndarray,
        *,
        image_path: str | os.PathLike,
        segmentation_path: str | os.PathLike,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same window of image, uint8 (H, W, 3), and segmentation, uint8 (H, W) or (H, W, 3).

        Raises ValueError if they differ in size after rescaling, or are smaller than the window.
        """
        pair = image, segmentation
        if self.image_rescaler is not None:
            image = self.image_rescaler(image=image)["image"]
            segmentation = self.segmentation_rescaler(image=segmentation)["image"]
        if image.shape[:2] != segmentation.shape[:2]:  # then they differ before, too, which is what the error shows
            paths = (image_path, segmentation_path)
            check_same_size(*pair, paths=paths, kind="segmentation", dataset=self.name)
        if self.crop_size is None:
            return image, segmentation
        check_room(image, self.crop_size, path=image_path, dataset=self.name)
        cropped = self.preprocessor(image=image, mask=segmentation)
        return cropped["image"], cropped["mask"]


def segmentation_name(image_name: str) -> str:
    """Name of an image's label map: `.jpg` or `.jpeg`, in any case, becomes `.png`; other names stay as they are."""
    return re.sub(r"\.jpe?g$", ".png", image_name, flags=re.IGNORECASE)


def _positive(size: int | None) -> int | None:
    return size if size is not None and size > 0 else None


def _rescaler(size: int, interpolation: int, keep_aspect: bool) -> albumentations.ImageOnlyTransform:
    if keep_aspect:
        return albumentations.SmallestMaxSize(max_size=size, interpolation=interpolation)
    return albumentations.Resize(height=size, width=size, interpolation=interpolation)
