"""Faces by list and by hash, sharded folders, and both sets together with classes and coordinates."""

import os
import pickle
import random
import shutil

import numpy as np
import pytest
from paired_figures import check_image
from parity import agree, cases
from reference import fill
from shared_data import shared_data
from tiny_faces import SIZE, place

from taming.data import faceshq
from taming.data.faceshq import (
    CelebAHQTrain,
    CelebAHQValidation,
    FacesBase,
    FacesHQTrain,
    FacesHQValidation,
    FFHQTrain,
    FFHQValidation,
    _is_validation,
)

KINDS = {"celebahq": (CelebAHQTrain, CelebAHQValidation), "ffhq": (FFHQTrain, FFHQValidation)}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder; warnings that earlier tests have caused come again."""
    faceshq._warn_once.cache_clear()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entries(data, root):
    return [os.path.relpath(data[i]["file_path_"], root) for i in range(len(data))]


@pytest.mark.parametrize(
    ("name", "modulus", "n_files", "n_validation", "first"),
    [
        ("imgHQ{:05}.npy", 6, 30000, 4993, [0]),
        ("{:05}.png", 7, 70000, 10014, [2, 4, 12, 20, 22, 28]),
    ],
)
def test_split_of_the_canonical_names(name, modulus, n_files, n_validation, first):
    chosen = [number for number in range(n_files) if _is_validation(name.format(number), modulus)]
    assert (len(chosen), chosen[: len(first)]) == (n_validation, first)


@pytest.mark.parametrize(("prefix", "kinds"), KINDS.items())
def test_lists_decide(prefix, kinds, caplog):
    place(4, 4)
    name = "imgHQ{:05}.npy" if prefix == "celebahq" else "{:05}.png"
    for kind, numbers in zip(kinds, ([3, 0], [2]), strict=True):
        split = "train" if kind is kinds[0] else "validation"
        with open(f"data/{prefix}{split}.txt", "w") as file:
            file.writelines(f"{name.format(number)}\n" for number in numbers)
        data = kind(size=8)
        assert entries(data, f"data/{prefix}") == [name.format(number) for number in numbers]
        assert list(data[0]) == ["image", "file_path_"]
        assert (data[0]["image"].shape, data[0]["image"].dtype) == ((8, 8, 3), np.float32)
    assert not caplog.records


@pytest.mark.parametrize(("prefix", "kinds"), KINDS.items())
def test_without_lists_all_files_are_split_with_one_warning(prefix, kinds, caplog):
    place()
    os.makedirs("data/ffhq/more")
    shutil.copy("data/ffhq/00002.png", "data/ffhq/more/00100.WEBP")
    os.symlink("..", "data/ffhq/more/loop")
    for name in ("ffhq/notes.txt", "ffhq/._00002.png", "celebahq/x.png"):
        open(f"data/{name}", "w").close()
    train, validation = (entries(kind(size=None), f"data/{prefix}") for kind in kinds)
    everything = {f"imgHQ{number:05}.npy" for number in range(40)}
    if prefix == "ffhq":
        everything = {f"{number:05}.png" for number in range(40)} | {"more/00100.WEBP"}
        assert validation[:6] == [f"{number:05}.png" for number in (2, 4, 12, 20, 22, 28)]
    else:
        assert validation[0] == "imgHQ00000.npy"
    assert not set(train) & set(validation) and set(train) | set(validation) == everything
    assert (train, validation) == (sorted(train), sorted(validation))
    assert len(caplog.records) == 2
    for kind in kinds:
        kind(size=None)
    assert len(caplog.records) == 2
    message = caplog.messages[1]
    assert f"no data/{prefix}validation.txt: {len(validation)} of the {len(everything)} files" in message
    assert "not the published split" in message


@pytest.mark.parametrize(("prefix", "kinds"), KINDS.items())
def test_without_files(prefix, kinds):
    for kind in kinds:
        with pytest.raises(FileNotFoundError, match=rf"{kind.__name__}: no .* files in data/{prefix}; .*https://"):
            kind(size=8)
    place(*((1, 0) if prefix == "celebahq" else (0, 3)))
    empty = kinds[0] if prefix == "celebahq" else None
    if empty:
        with pytest.raises(ValueError, match=r"none of the 1 files in data/celebahq falls into the train split; write"):
            empty(size=8)


def test_missing_file_is_named_with_its_list():
    os.makedirs("data")
    with open("data/ffhqtrain.txt", "w") as file:
        file.write("00000.png\n")
    with pytest.raises(
        FileNotFoundError, match=r"faceshq\.FFHQTrain: .*00000\.png; it is listed in data/ffhqtrain\.txt; .*ffhq-data"
    ):
        FFHQTrain(size=8)[0]


def test_folders_of_a_thousand_files():
    place(0, 2, ffhq_name="00000/{:05}.png")
    with open("data/ffhqtrain.txt", "w") as file:
        file.write("00001.png\n52535.png\n")
    data = FFHQTrain(size=8)
    assert data[0]["image"].shape == (8, 8, 3)
    with pytest.raises(FileNotFoundError, match=r"data/ffhq/52000/52535\.png"):
        data[1]
    shutil.copy("data/ffhq/00000/00001.png", "data/ffhq/00001.png")
    assert FFHQTrain(size=8)[0]["file_path_"] == "data/ffhq/00001.png"


def test_keys():
    place()
    assert list(FFHQValidation(size=8, keys=["image"])[0]) == ["image"]
    assert list(FacesHQValidation(size=8, keys=["file_path_"])[0]) == ["file_path_", "class"]
    with pytest.raises(ValueError, match=r"FFHQValidation: keys: no item has 'segmentation'; choose from image"):
        FFHQValidation(size=8, keys=["segmentation"])
    for options in ({"crop_size": 8}, {"coord": True}):
        with pytest.raises(ValueError, match=r"FacesHQTrain: keys must hold 'image' where crop_size or coord"):
            FacesHQTrain(size=8, keys=["file_path_"], **options)
    base = FacesBase()
    base.data, base.keys = [{"a": 1, "b": 2}], ["b"]
    assert (len(base), base[0]) == (1, {"b": 2})


def test_both_sets_in_order():
    place()
    data = FacesHQValidation(size=16)
    n_celebahq = len(CelebAHQValidation(size=16))
    assert len(data) == n_celebahq + len(FFHQValidation(size=16))
    assert [data[i]["class"] for i in (0, n_celebahq - 1, n_celebahq, -1)] == [0, 0, 1, 1]
    assert "coord" not in data[0]
    np.testing.assert_array_equal(data[n_celebahq]["image"], FFHQValidation(size=16)[0]["image"])


@pytest.mark.parametrize("kind", [FacesHQTrain, FacesHQValidation])
def test_coordinates_are_those_of_the_whole_image(kind):
    place()
    whole = kind(size=SIZE, coord=True)[0]
    assert (whole["coord"].dtype, whole["coord"].shape) == (np.float64, (SIZE, SIZE, 1))
    np.testing.assert_array_equal(whole["coord"].ravel(), np.arange(SIZE**2) / SIZE**2)
    data = pickle.loads(pickle.dumps(kind(size=SIZE, crop_size=10, coord=True)))
    random.seed(0)
    corners = set()
    for _ in range(20):
        item = data[0]
        assert (item["coord"].dtype, item["coord"].shape, item["image"].shape) == (np.float64, (10, 10, 1), (10, 10, 3))
        top, left = divmod(round(item["coord"][0, 0, 0] * SIZE**2), SIZE)
        corners.add((top, left))
        window = np.s_[top : top + 10, left : left + 10]
        np.testing.assert_array_equal(item["coord"], whole["coord"][window])
        np.testing.assert_array_equal(item["image"], whole["image"][window])
    assert (len(corners) > 5) if kind is FacesHQTrain else corners == {(7, 7)}


def test_crop_larger_than_the_image():
    place()
    with pytest.raises(ValueError, match=r"FacesHQTrain: data/celebahq/\S+ has 16 x 16 .* a crop of 17 x 17"):
        FacesHQTrain(size=16, crop_size=17)[0]


def test_errors_name_the_outer_dataset():
    place(40, 0)
    with pytest.raises(FileNotFoundError, match=r"^taming\.data\.faceshq\.FacesHQTrain: no .* files in data/ffhq"):
        FacesHQTrain(size=8)


def test_published_faces(folder):
    case = cases("data_images")["faceshq-validation/made-up-root"]
    os.makedirs("data/celebahq")
    os.makedirs("data/ffhq")
    for number in range(2):
        array = fill.integers(f"input:faces/c{number}", (1, 3, 72, 72), 256).astype(np.uint8)
        np.save(f"data/celebahq/c{number}.npy", array)
    shutil.copy(shared_data() / "coco_images" / "000000064898.jpg", "data/ffhq")
    (folder / "data/celebahqvalidation.txt").write_text("c0.npy\nc1.npy\n")
    (folder / "data/ffhqvalidation.txt").write_text("000000064898.jpg\n")
    data = FacesHQValidation(**case["kwargs"])
    plain = FacesHQValidation(size=case["kwargs"]["size"])
    for name, stored in case["outputs"].items():
        item = data[int(name)] if name.isdigit() else plain[0]
        assert sorted(item) == stored["keys"]
        check_image(stored["image"], item["image"])
        if name.isdigit():
            agree(stored["coord"], item["coord"])
            assert (str(item["coord"].dtype), item["class"]) == (stored["coord_dtype"], stored["class"])
