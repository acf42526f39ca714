"""Own images: from a list or a folder, turned upright, with errors that say where the file is listed."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from taming.data.base import ImagePaths
from taming.data.custom import CustomBase, CustomTest, CustomTrain

DATASETS = pytest.mark.parametrize("dataset_class", [CustomTrain, CustomTest])


@pytest.fixture
def images(tmp_path):
    """`images/b.png` and `images/sub/a.jpg`, the latter lying on its side."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(folder / "b.png")
    Image.fromarray(pixels).save(folder / "sub" / "a.jpg", exif=exif)
    return folder


@DATASETS
def test_list_file_with_bom_crlf_and_blank_lines(images, dataset_class):
    list_file = images / "list.txt"
    list_file.write_bytes(f"\ufeffb.png\r\n\r\n  sub/a.jpg \r\n{images / 'b.png'}".encode())
    dataset = dataset_class(16, list_file)
    assert len(dataset) == 3
    assert [dataset[i]["file_path_"] for i in range(3)] == [
        str(images / "b.png"), str(images / "sub" / "a.jpg"), str(images / "b.png")
    ]  # fmt: skip
    assert isinstance(dataset, CustomBase)


@pytest.mark.parametrize(
    ("dataset_class", "option"),
    [(CustomTrain, "training_images_list_file"), (CustomTest, "test_images_list_file")],
)
def test_centre_crops_without_augmentation(images, dataset_class, option):
    item = dataset_class(size=16, **{option: images})[0]
    assert list(item) == ["image", "file_path_"]
    np.testing.assert_array_equal(item["image"], ImagePaths([images / "b.png"], size=16)[0]["image"])


def test_folder_in_order_and_images_upright(images):
    dataset = CustomTrain(None, str(images))
    assert [dataset[i]["file_path_"] for i in range(2)] == [f"{images}/b.png", f"{images}/sub/a.jpg"]
    assert [dataset[i]["image"].shape for i in range(2)] == [(20, 30, 3), (30, 20, 3)]


def test_relative_entries_count_from_the_current_folder_first(images, monkeypatch):
    (images / "list.txt").write_text("b.png\nelsewhere.png")
    monkeypatch.chdir(images / "sub")
    Image.new("RGB", (2, 2)).save("b.png")
    dataset = CustomTrain(None, os.path.join("..", "list.txt"))
    assert dataset[0]["file_path_"] == "b.png"
    with pytest.raises(FileNotFoundError, match=r"file not found: elsewhere\.png; it is listed in \.\./list\.txt"):
        dataset[1]


@DATASETS
@pytest.mark.parametrize(("content", "problem"), [(None, "file not found"), ("\n \n", "is empty")])
def test_missing_or_empty_list(tmp_path, dataset_class, content, problem):
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=problem) as error:
        dataset_class(16, tmp_path / "list.txt")
    assert f"taming.data.custom.{dataset_class.__name__}: " in str(error.value)
    assert str(tmp_path / "list.txt") in str(error.value)


def test_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match=f"taming.data.custom.CustomTest: no images below {tmp_path}"):
        CustomTest(16, tmp_path)


def test_unreadable_images_name_the_outer_class(images):
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:200])
    dataset = pickle.loads(pickle.dumps(CustomTrain(16, images)))
    with pytest.raises(OSError, match=f"taming.data.custom.CustomTrain: cannot read image {images}/b.png"):
        dataset[0]
