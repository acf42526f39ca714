"""Checks of image sizes, with errors that name dataset and files."""

from typing import Any

import numpy as np


def pixels(array: np.ndarray) -> str:
    """Width and height of an image (h, w, ...), as people write them."""
    height, width = array.shape[:2]
    return f"{width} x {height}"


def check_same_size(image: np.ndarray, other: np.ndarray, *, paths: tuple[Any, Any], kind: str, dataset: str) -> None:
    """Raise ValueError unless an image and what belongs to it, a map of some `kind`, have the same height and width."""
    if image.shape[:2] != other.shape[:2]:
        raise ValueError(
            f"{dataset}: image {paths[0]} has {pixels(image)} pixels and its {kind} {paths[1]} {pixels(other)};"
            " they must show the same at the same size"
        )


def check_room(image: np.ndarray, crop_size: int | None, *, path: Any, dataset: str) -> None:
    """Raise ValueError if a square of `crop_size` does not fit into the image."""
    if crop_size is not None and min(image.shape[:2]) < crop_size:
        raise ValueError(
            f"{dataset}: {path} has {pixels(image)} pixels where it is cropped, too few for a crop of {crop_size} x"
            f" {crop_size}; lower crop_size or raise size"
        )
