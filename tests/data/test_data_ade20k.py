"""ADE20K's examples and whole splits."""

import pickle
import random
import shutil

import numpy as np
import pytest
from paired_figures import as_image, check_examples, check_image, check_one_hot, stripes, write
from parity import cases, names
from shared_data import shared_data

from taming.data.ade20k import ADE20kTrain, ADE20kValidation
from taming.data.segmentation import segmentation_name

CASES = cases("data_images")
ROOT = "data/ade20k_root"
KEYS = ["relative_file_path_", "file_path_", "relative_segmentation_path_", "segmentation_path_", "scene_category"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two images of 60 x 40 pixels per split in the layout of the archive, as the current folder."""
    monkeypatch.chdir(tmp_path)
    for folder, part in (("training", "train"), ("validation", "val")):
        for number in (2, 1):
            name = f"{folder}/ADE_{part}_{number:08}"
            write(tmp_path / ROOT / f"images/{name}.jpg", as_image(stripes(40, 60, [0, 150, number])))
            write(tmp_path / ROOT / f"annotations/{name}.png", stripes(40, 60, [0, 150, number]))
    scenes = ["ADE_train_00000001 airport_terminal", "ADE_train_00000002 beach", "ADE_val_00000001 street"]
    (tmp_path / ROOT / "sceneCategories.txt").write_text("\n".join(scenes) + "\n")
    return tmp_path


def test_items_of_the_whole_split(root, caplog):
    with caplog.at_level("INFO"):
        data = ADE20kTrain(size=32)
    assert "no list data/ade20k_train.txt, using all 2 images of training" in caplog.text
    assert len(data) == 2
    item = data[0]
    assert list(item) == [*KEYS, "image", "segmentation"]
    assert [item[key] for key in KEYS] == [
        "training/ADE_train_00000001.jpg",
        f"{ROOT}/images/training/ADE_train_00000001.jpg",
        "training/ADE_train_00000001.png",
        f"{ROOT}/annotations/training/ADE_train_00000001.png",
        "airport_terminal",
    ]
    assert (item["image"].shape, item["image"].dtype) == ((32, 32, 3), np.float32)
    assert (item["segmentation"].shape, item["segmentation"].dtype) == ((32, 32, 151), np.float64)
    assert data[1]["scene_category"] == "beach"


def test_list_files_choose_and_order(root):
    (root / "data/ade20k_test.txt").write_text("validation/ADE_val_00000002.jpg\nvalidation/ADE_val_00000001.jpg\n")
    data = ADE20kValidation()
    assert [data[i]["relative_file_path_"][-5] for i in range(len(data))] == ["2", "1"]
    item = data[1]
    np.testing.assert_array_equal(item["segmentation"].argmax(axis=2), stripes(40, 60, [0, 150, 1]))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (40, 60)),
        ({"size": 30}, (30, 30)),
        ({"crop_size": 20}, (20, 20)),
        ({"size": 30, "crop_size": 20}, (20, 20)),
        ({"size": 0, "crop_size": 0}, (40, 60)),
    ],
)
def test_geometry(root, options, shape):
    for kind in (ADE20kTrain, ADE20kValidation):
        item = kind(**options)[0]
        assert item["image"].shape[:2] == item["segmentation"].shape[:2] == shape


def test_only_training_crops_at_random(root):
    for kind, varies in ((ADE20kTrain, True), (ADE20kValidation, False)):
        data = pickle.loads(pickle.dumps(kind(crop_size=20)))
        random.seed(0)
        assert (len({data[0]["segmentation"].tobytes() for _ in range(10)}) > 3) == varies


def test_image_without_a_scene_is_told_once(root, caplog):
    data = ADE20kValidation()
    assert [data[i]["scene_category"] for i in (0, 1)] == ["street", "unknown"]
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert "no scene for 1 images, such as ADE_val_00000002" in record.message


def test_crop_larger_than_the_image(root):
    with pytest.raises(
        ValueError,
        match=r"ADE20kTrain: .*00000001\.jpg has 60 x 40 pixels where it is cropped, too few for a crop of 41 x 41",
    ):
        ADE20kTrain(crop_size=41)[0]


def test_missing_files_say_where_to_get_them(root):
    (root / ROOT / "sceneCategories.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"ADE20kTrain: .*sceneCategories\.txt; unpack .*ADEChallengeData2016\.zip"
    ):
        ADE20kTrain()
    shutil.rmtree(root / ROOT)
    with pytest.raises(
        FileNotFoundError, match=r"ADE20kTrain: no \.jpg files in .*training; unpack .*ADEChallengeData"
    ):
        ADE20kTrain()
    (root / "data/ade20k_train.txt").write_text("training/ADE_train_00000001.jpg\n")
    with pytest.raises(FileNotFoundError, match="sceneCategories"):
        ADE20kTrain()


@pytest.mark.parametrize("name", names("data_images", "examples/ade20k/size="))
def test_published_examples(name, monkeypatch):
    check_examples(CASES[name], monkeypatch)


def test_published_validation_image(tmp_path, monkeypatch):
    case = CASES["ade20k-validation/made-up-root"]
    scenes = []
    for index, name in enumerate(case["files"]):
        for folder, source in (("images", "ade20k_images"), ("annotations", "ade20k_segmentations")):
            file = name if folder == "images" else segmentation_name(name)
            target = tmp_path / ROOT / folder / "validation"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(shared_data() / source / file, target)
        scenes.append(f"{name.removesuffix('.jpg')} scene{index}\n")
    (tmp_path / ROOT / "sceneCategories.txt").write_text("".join(scenes))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/ade20k_test.txt").write_text("".join(f"validation/{name}\n" for name in case["files"]))
    item = ADE20kValidation(**case["kwargs"])[1]
    assert (sorted(item), item["scene_category"]) == (case["outputs"]["keys"], case["outputs"]["scene_category"])
    check_image(case["outputs"]["image"], item["image"])
    check_one_hot(case["outputs"]["segmentation"], item["segmentation"])
