"""Images with label maps by a list file."""

import pickle
import random

import numpy as np
import pytest
from paired_figures import as_image, check_examples, stripes, write
from parity import cases, names

from taming.data.segmentation import segmentation_name
from taming.data.sflckr import SegmentationBase

CASES = cases("data_images")
SIZES = {"lake/a.jpg": (40, 60), "lake/b.JPEG": (60, 40), "c.png": (50, 50)}


@pytest.fixture
def root(tmp_path):
    """Three pairs and their list, which has a byte order mark, blank lines and Windows' ends of lines."""
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n\r\n".join(name.encode() for name in SIZES) + b"\r\n")
    for name, size in SIZES.items():
        labels = stripes(*size, [5, 9, 255 if name == "c.png" else 0])
        write(tmp_path / "images" / name, as_image(labels))
        write(tmp_path / "maps" / segmentation_name(name), labels)
    return tmp_path


def dataset(root, **changes):
    return SegmentationBase(root / "list.txt", str(root / "images"), str(root / "maps"), **{"n_labels": 11, **changes})


def test_items(root):
    data = dataset(root, size=32)
    assert len(data) == 3
    item = data[1]
    assert list(item) == ["relative_file_path_", "file_path_", "segmentation_path_", "image", "segmentation"]
    assert item["relative_file_path_"] == "lake/b.JPEG"
    assert item["file_path_"] == str(root / "images" / "lake/b.JPEG")
    assert item["segmentation_path_"] == str(root / "maps" / "lake/b.png")
    assert (item["image"].shape, item["image"].dtype) == ((32, 32, 3), np.float32)
    assert (item["segmentation"].shape, item["segmentation"].dtype) == ((32, 32, 11), np.float64)
    assert set(item["segmentation"].argmax(axis=2).ravel()) == {0, 5, 9}
    assert -1 <= item["image"].min() < item["image"].max() <= 1


@pytest.mark.parametrize("size", [None, 0, -1])
def test_full_size(root, size):
    item = dataset(root, size=size)[0]
    labels = stripes(*SIZES["lake/a.jpg"], [5, 9, 0])
    np.testing.assert_array_equal(item["segmentation"].argmax(axis=2), labels)
    np.testing.assert_array_equal(item["image"], (as_image(labels) / 127.5 - 1).astype(np.float32))


def test_shift_takes_unlabelled_to_zero(root):
    shifted = dataset(root, shift_segmentation=True)[2]["segmentation"].argmax(axis=2)
    np.testing.assert_array_equal(shifted, stripes(*SIZES["c.png"], [6, 10, 0]))


def test_label_out_of_range(root):
    with pytest.raises(
        ValueError, match=r"sflckr\.SegmentationBase: label map .*c\.png has labels 255 where n_labels=11"
    ):
        dataset(root)[2]


def test_random_crops_follow_the_seed_and_pickle(root):
    data = pickle.loads(pickle.dumps(dataset(root, size=32, random_crop=True)))

    def crops(seed):
        random.seed(seed)
        return [data[0]["segmentation"].tobytes() for _ in range(10)]

    assert crops(0) == crops(0) != crops(1)
    assert len(set(crops(0))) > 5


def test_missing_files(root):
    (root / "maps" / "c.png").unlink()
    with pytest.raises(FileNotFoundError) as error:
        dataset(root)[2]
    for part in ("taming.data.sflckr.SegmentationBase: file not found", "maps/c.png", "images/c.png", "list.txt"):
        assert part in str(error.value)
    (root / "images" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/c\.png; it is listed in .*list\.txt"):
        dataset(root)[2]
    (root / "list.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"SegmentationBase: file not found: .*list\.txt"):
        dataset(root)


def test_map_of_another_size(root):
    write(root / "maps" / "c.png", stripes(50, 40, [1]))
    with pytest.raises(
        ValueError, match=r"images/c\.png has 50 x 50 pixels and its segmentation .*maps/c\.png 40 x 50"
    ):
        dataset(root, size=20)[2]


@pytest.mark.parametrize("name", names("data_images", "examples/sflckr/size="))
def test_published_examples(name, monkeypatch):
    check_examples(CASES[name], monkeypatch)
