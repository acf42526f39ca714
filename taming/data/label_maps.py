"""Label maps: images whose pixels are class numbers, and their one-hot form."""

import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from taming.data._io import read_image

MAX_LABEL = 255


def read_labels(path: str | os.PathLike, dataset: str, hint: str = "") -> np.ndarray:
    """First frame of a label map as uint8 (H, W): grey values, or indices into a palette whose colours do not count.

    Black and white is 0 and 1; 16-bit files will do if all their values are below 256. Raises FileNotFoundError (which
    ends with `hint`) for a missing file, OSError for an unreadable one, ValueError for any other mode or larger labels.
    """
    image = read_image(path, dataset, hint)
    is_wide = image.mode == "I" or image.mode.startswith("I;16")
    if image.mode not in ("1", "L", "P") and not is_wide:
        raise ValueError(
            f"{dataset}: label map {path} has mode {image.mode}; expected one channel of class numbers (mode L or P)"
        )
    labels = np.asarray(image)
    if is_wide and (labels.min() < 0 or labels.max() > MAX_LABEL):
        raise ValueError(
            f"{dataset}: label map {path} has labels from {labels.min()} to {labels.max()}; expected 0 to {MAX_LABEL}"
        )
    return labels.astype(np.uint8)


def shift(labels: np.ndarray) -> np.ndarray:
    """uint8 labels moved up by one; 255, which stands for unlabelled, becomes 0."""
    return labels + np.uint8(1)


def one_hot(labels: np.ndarray, n_labels: int, *, path: Any, dataset: str, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Labels (H, W) -> (H, W, n_labels), 1 at the label and 0 elsewhere; ValueError for a label of n_labels or more."""
    beyond = np.unique(labels[labels >= n_labels])
    if beyond.size:
        raise ValueError(
            f"{dataset}: label map {path} has labels {', '.join(map(str, beyond))} where n_labels={n_labels} allows 0 "
            f"to {n_labels - 1}; raise n_labels, or check shift_segmentation and that the map is one of this dataset"
        )
    return np.eye(n_labels, dtype=dtype)[labels]
