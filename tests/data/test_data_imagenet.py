"""Items, classes and their names, selections, and the versions in low resolution and as edges."""

import pickle
import random
import shutil
import sys
from collections import UserDict

import numpy as np
import pytest
from omegaconf import OmegaConf
from paired_figures import check_image
from parity import agree, cases, make
from shared_data import shared_data
from tiny_imagenet import RELPATHS, be_offline, place_folders

from taming.data import imagenet, imagenet_labels, imagenet_preparation
from taming.data.base import ImagePaths
from taming.data.imagenet import (
    ImageNetEdgesTrain,
    ImageNetEdgesValidation,
    ImageNetScale,
    ImageNetScaleTrain,
    ImageNetScaleValidation,
    ImageNetTrain,
    ImageNetValidation,
    give_synsets_from_indices,
    imscale,
    str_to_indices,
)
from taming.data.imagenet_preparation import cache_root

CASES, MISC = cases("data_images"), cases("misc")
INDEX = {0: "n01", 1: "n02", 2: "n03", 3: "n99"}


@pytest.fixture(autouse=True)
def asked(tmp_path, monkeypatch):
    return be_offline(tmp_path, monkeypatch)


@pytest.fixture
def root():
    """The training split: 5 images of 30 x 20 pixels in 3 classes, with names for two of those, and an index."""
    root = place_folders(ImageNetTrain)
    (root / "synset_human.txt").write_text("n01 tench, Tinca tinca\nn03\tcock\n")
    (root / "index_synset.yaml").write_text(OmegaConf.to_yaml(INDEX))
    return root


def test_items(root):
    data = ImageNetTrain()
    item = data[1]
    assert list(item) == ["image", "relpath", "synsets", "class_label", "human_label", "file_path_"]
    assert item["image"].shape == (20, 30, 3)
    texts = item["relpath"], item["synsets"], item["human_label"]
    assert texts == ("n01/n01_9.JPEG", "n01", "tench, Tinca tinca")
    assert {type(text) for text in texts} == {np.str_}
    assert (item["class_label"], type(item["class_label"])) == (0, np.int64)
    assert item["file_path_"] == data.abspaths[1] == str(root / "data/n01/n01_9.JPEG")
    assert (len(data), data.human_dict, data.idx2syn) == (
        *(5, str(root / "synset_human.txt"), str(root / "index_synset.yaml")),
    )
    assert [data[i]["human_label"] for i in (2, 3)] == ["n02", "cock"]
    assert data.class_labels.tolist() == [0, 0, 1, 2, 2]


def test_a_file_of_the_archive_that_is_no_use_is_left_out():
    place_folders(ImageNetTrain, {"n06": ["n06596364_9591.JPEG", "n06596364_9592.JPEG"]})
    assert ImageNetTrain().relpaths == ["n06/n06596364_9592.JPEG"]


def test_published_validation_images(tmp_path):
    case = CASES["imagenet-validation/made-up-root"]
    root = cache_root("ILSVRC2012_validation")
    for entry in case["file_list"][:5]:
        (root / "data" / entry).parent.mkdir(parents=True)
        shutil.copy(shared_data() / "drin_images" / entry, root / "data" / entry)
    (root / "filelist.txt").write_text("\n".join(case["file_list"]) + "\n")
    synsets = case["idx_to_synset"]
    (root / "synset_human.txt").write_text("".join(f"{name} name of {name}\n" for name in synsets.values()))
    (root / "index_synset.yaml").write_text("".join(f"{index}: {name}\n" for index, name in synsets.items()))
    (root / ".ready").touch()
    data = ImageNetValidation(**case["kwargs"])
    assert len(data) == case["outputs"]["len"]
    for stored, i in zip(case["outputs"]["examples"], range(len(data)), strict=True):
        item = data[i]
        check_image(stored["image"], item["image"])
        assert item.pop("file_path_") == stored["file_path_"].replace("<cache>", str(tmp_path / "cache"))
        assert all(item[key] == stored[key] for key in item.keys() - {"image"})
    chosen = ImageNetValidation({"sub_indices": "30-32"})
    assert chosen.relpaths == case["outputs"]["relpaths_with_sub_indices_30-32"]
    assert [chosen[i]["class_label"] for i in range(2)] == case["outputs"]["class_labels_with_sub_indices"]


@pytest.mark.parametrize("wrap", [dict, OmegaConf.create, UserDict])
def test_config(root, wrap, monkeypatch):
    data = ImageNetTrain(wrap({"size": 8, "sub_indices": "0, 2"}))
    assert data[0]["image"].shape == (8, 8, 3)
    assert data.relpaths == [RELPATHS[i] for i in (0, 1, 3, 4)]
    assert data.class_labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("config", "crops_at_random"),
    [({}, True), ({"random_crop": False}, True), ({"ImageNetTrain": {"random_crop": False}}, False)],
)
def test_only_the_nested_random_crop_counts(root, config, crops_at_random):
    data = pickle.loads(pickle.dumps(ImageNetTrain({"size": 16, **config})))
    random.seed(0)
    assert data.random_crop == crops_at_random
    assert (len({data[0]["image"].tobytes() for _ in range(10)}) > 1) == crops_at_random
    place_folders(ImageNetValidation)
    assert ImageNetValidation({"ImageNetTrain": {"random_crop": True}}).random_crop is False


def test_bad_config(root):
    with pytest.raises(ValueError, match=r"ImageNetTrain: config must be a mapping"):
        ImageNetTrain(256)
    with pytest.raises(ValueError, match=r"no image of .*filelist\.txt is left; check sub_indices"):
        ImageNetTrain({"sub_indices": 3})
    with pytest.raises(ValueError, match=r"index_synset\.yaml has no class of index 7"):
        ImageNetTrain({"sub_indices": 7})


def test_missing_images_are_named_with_the_dataset(root):
    data = ImageNetScaleTrain()
    (root / "data/n01/n01_10.JPEG").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"^taming\.data\.imagenet\.ImageNetScaleTrain: .*n01_10\.JPEG; it is listed in .*list"
    ):
        data[0]


@pytest.mark.parametrize("text", MISC["str-to-indices"]["outputs"])
def test_published_indices(text):
    assert str_to_indices(text) == MISC["str-to-indices"]["outputs"][text]


def test_indices_of_the_datasets():
    assert str_to_indices("32-35, 5, 40-41") == [5, 32, 33, 34, 40]
    assert len(str_to_indices(imagenet.RIN)) == 194
    for text in ("1, 2,", "", "a", "1-", "-1", "1.5", "3--5"):
        with pytest.raises(ValueError, match="neither an index nor a range a-b"):
            str_to_indices(text)


def test_synsets_of_indices(tmp_path):
    path = tmp_path / "index.yaml"
    path.write_text("0: n01\n1: n02\n")
    assert give_synsets_from_indices([1, 0, 1], path) == ["n02", "n01", "n02"]
    path.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match=r"index\.yaml: not valid YAML: could not determine a constructor"):
        give_synsets_from_indices([0], path)


def test_chosen_classes_without_images_are_told(root, caplog):
    ImageNetTrain({"sub_indices": "1-4"})
    assert "1 chosen classes have no image: n99" in caplog.text


def test_without_index_the_sorted_folders_count_if_they_are_complete(root, tmp_path, caplog, asked):
    (root / "index_synset.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"sub_indices needs .*index_synset\.yaml.*heibox.* \(there are 3\)"):
        ImageNetTrain({"sub_indices": "1-3"})
    assert imagenet_labels.INDEX_URL in asked
    present = [f"n{index:04}" for index in range(1000)]
    chosen = imagenet_labels.chosen_synsets("7, 999", tmp_path / "none.yaml", present, dataset="d")
    assert chosen == ["n0007", "n0999"]
    assert "counted along the sorted synset folders" in caplog.text
    with pytest.raises(ValueError, match="no class of index 1000"):
        imagenet_labels.chosen_synsets("1000", tmp_path / "none.yaml", present, dataset="d")


def test_without_names_the_synsets_are_the_names(root, caplog, asked):
    (root / "synset_human.txt").unlink()
    assert ImageNetTrain().human_labels.tolist() == ["n01", "n01", "n02", "n03", "n03"]
    assert asked == [imagenet_labels.HUMAN_URL]
    (record,) = [record for record in caplog.records if "no names of classes" in record.message]
    assert imagenet_labels.HUMAN_URL in record.message and str(root / "synset_human.txt") in record.message


def test_names_of_another_size_are_replaced_if_that_works(root, caplog, monkeypatch):
    assert ImageNetTrain().human_labels[0] == "tench, Tinca tinca"
    assert "instead of 2655750, it is used as it is" in caplog.text
    monkeypatch.setattr(imagenet_labels, "HUMAN_SIZE", (root / "synset_human.txt").stat().st_size)
    caplog.clear()
    assert ImageNetTrain().human_labels[0] == "tench, Tinca tinca"
    assert "synset_human" not in caplog.text
    monkeypatch.setattr(imagenet_labels, "HUMAN_SIZE", 12)
    monkeypatch.setattr(imagenet_preparation, "download", lambda url, path: path.write_text("n01 a tench\n"))
    assert ImageNetTrain().human_labels[0] == "a tench"


def test_published_degradation():
    case = MISC["imscale"]
    x = make(case["inputs"]["x"]).numpy()
    for name, stored in case["outputs"].items():
        _, factor, _, keepshapes, _, keepmode = name.split()
        agree(stored, imscale(x, int(factor), keepshapes == "True", keepmode))


def test_degradation_keeps_the_type_and_refuses_the_rest():
    x = np.zeros((8, 9, 3))
    assert imscale(x, None) is x
    assert (imscale(x, 2).dtype, imscale(x, 2).shape) == (np.float64, (4, 4, 3))
    for array, factor, mode in [(x.astype(np.uint8), 2, "bicubic"), (x[:, :, 0], 2, "bicubic"), (x, 9, "bicubic")]:
        with pytest.raises(ValueError, match=r"imscale expects|smaller by a factor of 9"):
            imscale(array, factor, True, mode)
    with pytest.raises(ValueError, match="unknown keep_mode 'area'; choose from nearest"):
        imscale(x, 2, True, "area")


class Ramp(ImageNetScale):
    """Four images of 40 x 24 pixels whose red tells the column and whose green tells the row."""

    def get_base(self):
        rows, columns = np.mgrid[:24, :40].astype(np.float32)
        image = np.stack([columns / 39, rows / 23, np.zeros_like(rows)], axis=2) * 2 - 1
        return [{"image": image, "class_label": label} for label in range(4)]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (24, 40)),
        ({"size": 12}, (12, 12)),
        ({"size": 12, "crop_size": 8}, (8, 8)),
        ({"crop_size": 30}, (30, 30)),
        ({"crop_size": 10, "hr_factor": 2}, (10, 10)),
        ({"hr_factor": 2}, (12, 20)),
        ({"size": 16, "crop_size": 16, "hr_factor": 2}, (16, 16)),
    ],
)
@pytest.mark.parametrize("up_factor", [None, 1, 4])
def test_low_resolution(options, shape, up_factor):
    item = Ramp(**options, up_factor=up_factor)[3]
    assert list(item) == ["image", "class_label"] + ["lr"] * (up_factor is not None)
    assert (item["image"].shape, item["image"].dtype, item["class_label"]) == ((*shape, 3), np.float32, 3)
    if up_factor is not None:
        assert (item["lr"].shape, item["lr"].dtype) == (item["image"].shape, np.float32)
        assert np.array_equal(item["lr"], item["image"]) == (up_factor == 1)


def test_low_resolution_is_cropped_like_its_image():
    data = pickle.loads(pickle.dumps(Ramp(crop_size=8, random_crop=True, up_factor=1)))
    random.seed(0)
    items = [data[0] for _ in range(10)]
    assert all(np.array_equal(item["lr"], item["image"]) for item in items)
    assert len({item["image"].tobytes() for item in items}) > 3


def test_crop_beyond_size():
    with pytest.raises(ValueError, match=r"Ramp: number 0 has 20 x 12 pixels where it is cropped, .* 13 x 13"):
        Ramp(size=12, crop_size=13)[0]


def test_train_crops_at_random_and_validation_at_the_centre(root):
    place_folders(ImageNetValidation)
    for kinds in ((ImageNetScaleTrain, ImageNetScaleValidation), (ImageNetEdgesTrain, ImageNetEdgesValidation)):
        for kind, varies in zip(kinds, (True, False), strict=True):
            data = pickle.loads(pickle.dumps(kind(crop_size=12, up_factor=2)))
            random.seed(0)
            assert (len({data[0]["image"].tobytes() for _ in range(10)}) > 3) == varies
            assert data[0]["lr"].shape == (12, 12, 3) and data[0]["synsets"] == "n01"


def test_edges(root):
    from skimage import data as pictures

    picture = pictures.camera()[::2, ::2]
    stored = np.repeat(picture[:, :, None], 3, axis=2).astype(np.float32) / 127.5 - 1
    edges = imagenet.ImageNetEdges.low_resolution(None, stored)
    assert (edges.shape, edges.dtype, set(np.unique(edges))) == (stored.shape, np.float32, {0.0, 1.0})
    data = ImageNetEdgesTrain(up_factor=4, hr_factor=2)
    item = data[0]
    np.testing.assert_array_equal(item["image"], ImageNetTrain()[0]["image"])
    assert item["lr"].shape == item["image"].shape and set(np.unique(item["lr"])) <= {0.0, 1.0}
    changes = np.abs(np.diff(stored[:, :, 0], axis=1))
    assert changes[edges[:, 1:, 0] == 1].mean() > 3 * changes[edges[:, 1:, 0] == 0].mean()


def test_edges_without_scikit_image(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match="edges need scikit-image: pip install scikit-image"):
        ImageNetEdgesTrain()
    ImageNetScaleTrain()


def test_published_names_stay_importable():
    assert imagenet.ImagePaths is ImagePaths
    assert callable(imagenet.download) and callable(imagenet.retrieve)
    assert sorted(imagenet.__all__) == imagenet.__all__ and all(hasattr(imagenet, name) for name in imagenet.__all__)
