"""One geometry for an image and its segmentation."""

import pickle
import random

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paired_figures import as_image, stripes

from taming.data.segmentation import PairedDataset, segmentation_name

CUBIC = {"random_crop": False, "interpolation": "bicubic"}


class Pair(PairedDataset):
    """Applies a geometry to pairs."""

    def __init__(self, size, crop_size, **geometry):
        super().__init__()
        self._set_geometry(size, crop_size, **geometry)

    def __call__(self, image, segmentation):
        return self._preprocess(image, segmentation, image_path="image.jpg", segmentation_path="map.png")


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("a/b.jpg", "a/b.png"),
        ("a.JPEG", "a.png"),
        ("a.jpg/b.Jpg", "a.jpg/b.png"),
        ("a.png", "a.png"),
        ("ajpg", "ajpg"),
    ],
)
def test_name_of_the_map(entry, name):
    assert segmentation_name(entry) == name


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("nearest", cv2.INTER_NEAREST),
        ("bilinear", cv2.INTER_LINEAR),
        ("bicubic", cv2.INTER_CUBIC),
        ("area", cv2.INTER_AREA),
        ("lanczos", cv2.INTER_LANCZOS4),
    ],
)
def test_interpolation_of_the_image(name, flag):
    image = np.random.default_rng(0).integers(0, 256, (30, 45, 3), dtype=np.uint8)
    pair = Pair(20, None, random_crop=False, interpolation=name)
    resized, _ = pair(image, image[..., 0])
    np.testing.assert_array_equal(resized, cv2.resize(image, (30, 20), interpolation=flag))


def test_unknown_interpolation():
    with pytest.raises(
        ValueError, match=r"Pair: unknown interpolation 'cubic'; choose from nearest, bilinear, bicubic"
    ):
        Pair(20, 20, random_crop=False, interpolation="cubic")


@given(
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    size=st.integers(8, 40),
    labels=st.lists(st.integers(0, 255), min_size=1, max_size=5),
)
def test_rescaling_invents_no_label(height, width, size, labels):
    labels = stripes(height, width, labels)
    image, resized = Pair(size, None, **CUBIC)(as_image(labels), labels)
    assert min(resized.shape) == size and image.shape == (*resized.shape, 3)
    assert set(np.unique(resized)) <= set(np.unique(labels))


@pytest.mark.parametrize("random_crop", [False, True])
def test_image_and_map_show_the_same_window(random_crop):
    labels = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    pair = pickle.loads(pickle.dumps(Pair(None, 16, random_crop=random_crop, interpolation="bicubic")))
    random.seed(0)
    windows = [pair(as_image(labels), labels) for _ in range(20)]
    for image, window in windows:
        np.testing.assert_array_equal(image[..., 0], window)
        assert window.shape == (16, 16)
    assert len({window.tobytes() for _, window in windows}) == (20 if random_crop else 1)
    if not random_crop:
        np.testing.assert_array_equal(windows[0][1], labels[12:28, 22:38])
    random.seed(0)  # the draws follow Python's generator
    np.testing.assert_array_equal(pair(as_image(labels), labels)[1], windows[0][1])


def test_both_sides_can_be_scaled():
    labels = stripes(30, 60, [1, 9])
    image, resized = Pair(20, None, keep_aspect=False, **CUBIC)(as_image(labels), labels)
    assert (image.shape, resized.shape) == ((20, 20, 3), (20, 20))
    np.testing.assert_array_equal(resized, stripes(20, 20, [1, 9]))


def test_no_geometry_leaves_both_alone():
    labels = stripes(30, 45, [1, 9])
    for size in (None, 0, -1):
        image, same = Pair(size, size, **CUBIC)(as_image(labels), labels)
        np.testing.assert_array_equal(image, as_image(labels))
        np.testing.assert_array_equal(same, labels)


def test_map_of_another_size():
    image, labels = as_image(stripes(30, 45, [1])), stripes(45, 30, [1])
    for size in (None, 20):
        with pytest.raises(ValueError) as error:
            Pair(size, size, **CUBIC)(image, labels)
        for part in ("Pair: image image.jpg has 45 x 30 pixels", "segmentation map.png 30 x 45"):
            assert part in str(error.value)


def test_map_of_another_size_but_of_the_same_shape_is_rescaled():
    image, labels = as_image(stripes(40, 60, [1])), stripes(20, 30, [4, 5])
    assert [array.shape[:2] for array in Pair(10, 10, **CUBIC)(image, labels)] == [(10, 10)] * 2


@pytest.mark.parametrize(("size", "pixels"), [(None, "45 x 30 pixels"), (20, "30 x 20 pixels")])
def test_window_larger_than_the_image(size, pixels):
    labels = stripes(30, 45, [1])
    with pytest.raises(
        ValueError,
        match=rf"Pair: image\.jpg has {pixels} where it is cropped, too few for a crop of 31 x 31; lower crop",
    ):
        Pair(size, 31, **CUBIC)(as_image(labels), labels)
