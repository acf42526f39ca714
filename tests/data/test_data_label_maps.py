"""Label maps: what counts as a label in each kind of file, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from taming.data.label_maps import one_hot, read_labels, shift

LABELS = np.array([[0, 3, 255], [7, 7, 1]], dtype=np.uint8)


def palette_image(labels):
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette([200, 10, 10] * 256)
    return image


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        (Image.fromarray(LABELS), LABELS),
        (palette_image(LABELS), LABELS),
        (Image.fromarray(LABELS > 3), LABELS > 3),
        (Image.fromarray(LABELS.astype(np.uint16)), LABELS),
        (Image.fromarray(LABELS.astype(np.int32)), LABELS),
    ],
    ids=["L", "P", "1", "I;16", "I"],
)
def test_pixels_are_labels(tmp_path, image, labels):
    image.save(tmp_path / "map.tif")
    read = read_labels(tmp_path / "map.tif", "dataset")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F", "CMYK"])
def test_files_without_labels(tmp_path, mode):
    Image.fromarray(LABELS).convert(mode).save(tmp_path / "map.tif")
    with pytest.raises(
        ValueError, match=rf"^some\.Dataset: label map .*map\.tif has mode {mode}; expected one channel"
    ):
        read_labels(tmp_path / "map.tif", "some.Dataset")


@pytest.mark.parametrize(("value", "dtype"), [(256, np.uint16), (-1, np.int32)])
def test_labels_that_do_not_fit_eight_bits(tmp_path, value, dtype):
    labels = LABELS.astype(dtype)
    labels[0, 0] = value
    Image.fromarray(labels).save(tmp_path / "map.tif")
    with pytest.raises(ValueError, match=rf"some\.Dataset: label map .*map\.tif has labels from .*{value}.*0 to 255"):
        read_labels(tmp_path / "map.tif", "some.Dataset")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^some\.Dataset: file not found: .*map\.png; it is listed in x\.txt$"):
        read_labels(tmp_path / "map.png", "some.Dataset", "it is listed in x.txt")
    Image.fromarray(np.zeros((90, 90), dtype=np.uint8)).save(tmp_path / "map.png")
    (tmp_path / "map.png").write_bytes((tmp_path / "map.png").read_bytes()[:60])
    with pytest.raises(OSError, match=r"^some\.Dataset: cannot read image .*map\.png: "):
        read_labels(tmp_path / "map.png", "some.Dataset")


def test_shift_takes_unlabelled_to_zero():
    shifted = shift(LABELS)
    assert shifted.dtype == np.uint8
    np.testing.assert_array_equal(shifted, [[1, 4, 0], [8, 8, 2]])


@given(labels=st.lists(st.integers(0, 8), min_size=6, max_size=6), dtype=st.sampled_from(["float64", "int64"]))
def test_one_hot_marks_the_label(labels, dtype):
    labels = np.array(labels, dtype=np.uint8).reshape(2, 3)
    hot = one_hot(labels, 9, path="map.png", dataset="dataset", dtype=dtype)
    assert (hot.shape, hot.dtype) == ((2, 3, 9), dtype)
    np.testing.assert_array_equal(hot.argmax(axis=2), labels)
    np.testing.assert_array_equal(np.sort(hot, axis=2)[..., -2:], np.broadcast_to([0, 1], (2, 3, 2)))


def test_labels_that_there_are_not():
    with pytest.raises(ValueError, match=r"^some\.Dataset: label map map\.png has labels 7, 255 .*n_labels=7 .*0 to 6"):
        one_hot(LABELS, 7, path="map.png", dataset="some.Dataset")
