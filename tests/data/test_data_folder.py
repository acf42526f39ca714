"""A folder's images fall into two fixed parts; subfolders are classes."""

import pickle
import random

import numpy as np
import pytest
from PIL import Image

from taming.data.base import ImagePaths
from taming.data.folder import FolderTrain, FolderValidation


def fill(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (len(name), 0, 0)).save(path)
    return folder


def relative_paths(dataset, root):
    return {path.removeprefix(f"{root}/") for path in dataset.labels["file_path_"]}


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    return fill(root, [f"{label}/deep/{i}.png" for label in ("wolf", "ant", "bee") for i in range(40)])


def test_splits_are_disjoint_complete_and_about_one_to_nine(classes):
    train, validation = FolderTrain(classes, 8), FolderValidation(classes, 8)
    parts = [relative_paths(dataset, classes) for dataset in (train, validation)]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == len(train) + len(validation) == 120
    assert 6 <= len(validation) <= 18


def test_split_depends_on_relative_paths_only_and_new_images_move_none(classes, tmp_path):
    names = relative_paths(FolderTrain(classes, 8), classes) | relative_paths(FolderValidation(classes, 8), classes)
    more = fill(tmp_path / "elsewhere", names | {f"cow/{i}.png" for i in range(20)})
    assert relative_paths(FolderValidation(more, 8), more) & names == relative_paths(
        FolderValidation(classes, 8), classes
    )


def test_split_is_the_documented_one(tmp_path):
    # Of these ten names three have a SHA-256 below a tenth of its range: they begin with 0f, 08 and 17.
    fill(tmp_path, [f"{i}.png" for i in range(10)])
    assert relative_paths(FolderValidation(tmp_path, 8), tmp_path) == {"0.png", "6.png", "8.png"}


def test_items_name_the_class_by_its_subfolder(classes):
    for dataset in (FolderTrain(classes, 8), FolderValidation(classes, 8)):
        assert dataset.class_names == ["ant", "bee", "wolf"]
        assert dataset.n_classes == 3
        assert isinstance(dataset, ImagePaths)
        item = dataset[len(dataset) - 1]
        assert list(item) == ["image", "class_label", "human_label", "file_path_"]
        assert (item["class_label"], item["human_label"]) == (2, "wolf")
        assert type(item["class_label"]) is int
        assert "/wolf/" in item["file_path_"]
        assert (item["image"].shape, item["image"].dtype) == ((8, 8, 3), np.float32)


def test_without_subfolders_there_is_one_class(tmp_path):
    root = fill(tmp_path / "birds", ["a.png", "b.png", "c.png"])
    assert FolderTrain(root, 8).class_names == FolderValidation(root, 8).class_names == ["birds"]


@pytest.mark.parametrize("names", [("1.png", "2.png"), ("0.png", "6.png")], ids=["none held out", "both held out"])
def test_two_images_are_one_of_each(tmp_path, names):
    fill(tmp_path, names)
    assert len(FolderTrain(tmp_path, 8)) == len(FolderValidation(tmp_path, 8)) == 1


@pytest.fixture
def stripes(tmp_path):
    """Two copies of a wide picture whose red tells the column."""
    columns = np.arange(40, dtype=np.uint8)[None, :, None].repeat(8, axis=0).repeat(3, axis=2)
    for name in ("a.png", "b.png"):
        Image.fromarray(columns).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("random_crop", "flip"), [(True, True), (True, False), (False, True), (False, False)])
def test_training_crops_and_mirrors_as_asked(stripes, random_crop, flip):
    dataset = pickle.loads(pickle.dumps(FolderTrain(stripes, 8, random_crop=random_crop, flip=flip)))
    random.seed(0)
    rows = np.stack([dataset[0]["image"][0, :, 0] for _ in range(60)])
    columns = np.round((rows + 1) * 127.5).astype(int)
    assert (len(set(columns.min(axis=1))) > 1) == random_crop
    assert {bool(row[0] > row[-1]) for row in columns} == ({False, True} if flip else {False})


def test_validation_cuts_the_centre(stripes):
    image = FolderValidation(stripes, 8)[0]["image"]
    np.testing.assert_array_equal(np.round((image[0, :, 0] + 1) * 127.5), np.arange(16, 24))


@pytest.mark.parametrize("dataset_class", [FolderTrain, FolderValidation])
@pytest.mark.parametrize(
    ("names", "error", "problem"),
    [(None, FileNotFoundError, "folder not found"), ([], ValueError, "no images"), (["a.png"], ValueError, "only one")],
    ids=["missing", "empty", "single"],
)
def test_unusable_folders(tmp_path, dataset_class, names, error, problem):
    root = tmp_path / "root"
    if names is not None:
        root.mkdir()
        fill(root, names)
    with pytest.raises(error, match=problem) as raised:
        dataset_class(root, 8)
    message = str(raised.value)
    assert message.startswith(f"taming.data.folder.{dataset_class.__name__}: ")
    assert str(root) in message
    assert "\n" not in message


def test_size_must_be_positive(classes):
    with pytest.raises(ValueError, match="size is 0"):
        FolderTrain(classes, 0)
