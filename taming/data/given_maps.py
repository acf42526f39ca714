"""Label maps and depth maps that people hand over, files or uploads, as data sets would give them to models.

(h, w) image. A path may be an open file; `reader` is who reads, for errors.
"""

import os
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from taming.data.coco import N_LABELS as COCO_LABELS
from taming.data.depth_maps import normalize_depth, read_depth
from taming.data.label_maps import one_hot, read_labels, shift


def read_label_map(
    path: str | os.PathLike | BinaryIO,
    n_labels: int,
    reader: str,
    *,
    resized: Callable[[np.ndarray], np.ndarray] = lambda labels: labels,
) -> np.ndarray:
    """The labels in a file as one-hot float32 (h, w, n_labels); of 183 labels, those of COCO, shifted as its files
    need it. `resized` may scale labels uint8 (h, w) before. Raises what `read_labels` and `one_hot` do.
    """
    labels = read_labels(path, reader)
    labels = resized(shift(labels) if n_labels == COCO_LABELS else labels)
    return one_hot(labels, n_labels, path=path, dataset=reader, dtype=np.float32)


def read_depth_map(path: str | os.PathLike | BinaryIO, reader: str) -> np.ndarray:
    """Inverse depth, floats coded as RGBA or grey values, brought to [-1, 1] over the whole map, float32 (h, w)."""
    return normalize_depth(read_depth(path, reader, grey=True))
