"""Images with segmentations: figures of the published datasets, and files that tests make themselves."""

import hashlib

import numpy as np
from parity import agree
from PIL import Image
from shared_data import shared_data

from taming.config import get_obj_from_str


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array, dtype=np.uint8).tobytes()).hexdigest()


def check_examples(case, monkeypatch):
    """The `Examples` of a case, on the real files, give the published items."""
    monkeypatch.chdir(shared_data().parent)
    full_size = case["kwargs"]["size"] is None
    if full_size:  # up to a gigabyte of zeros each
        monkeypatch.setattr("taming.data.segmentation.one_hot", lambda labels, *_, **__: labels)
    data = get_obj_from_str(case["target"])(**case["kwargs"])
    assert (data.n_labels, data.shift_segmentation) == (case["n_labels"], case["shift_segmentation"])
    for stored in case["outputs"]:
        item = data[data.image_paths.index(stored["file"])]
        assert sorted(item) == stored["keys"]
        check_image(stored["image"], item["image"], interpolated=case["kwargs"]["size"] == 256)
        (check_labels if full_size else check_one_hot)(stored["segmentation"], item["segmentation"])


def check_image(stored, image, *, interpolated=True):
    """A float image is the published one.

    Interpolated pixels may be a grey level off: OpenCV rounds as the processor's fastest instructions do.
    """
    agree(stored["summary"], image, atol=1.01 / 127.5)
    agree(stored["summary"]["mean"], image.mean(), atol=1e-4)
    if not interpolated:
        assert sha256(np.round((image.astype(np.float64) + 1) * 127.5)) == stored["uint8_sha256"]


def check_one_hot(stored, segmentation):
    """A one-hot segmentation holds the published labels."""
    assert (list(segmentation.shape), str(segmentation.dtype)) == (stored["shape"], stored["dtype"])
    assert np.array_equal(segmentation.sum(axis=2), np.ones(segmentation.shape[:2]))
    check_labels(stored, segmentation.argmax(axis=2))


def check_labels(stored, labels):
    values, counts = np.unique(labels, return_counts=True)
    assert dict(zip(map(str, values), counts.tolist(), strict=True)) == stored["label_pixels"]
    assert sha256(labels) == stored["argmax_uint8_sha256"]


def write(path, pixels):
    """A lossless file of these pixels, whatever its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, format="PNG")
    return path


def stripes(height, width, labels):
    """A map of vertical stripes of these labels, uint8 (height, width)."""
    columns = np.arange(width) * len(labels) // width
    return np.broadcast_to(np.asarray(labels, dtype=np.uint8)[columns], (height, width))


def as_image(labels):
    """The image (h, w, 3) whose red is the label."""
    return np.stack([labels, np.zeros_like(labels), np.zeros_like(labels)], axis=2)
