"""Files that cannot be used: one line that names dataset, index and file, or another item in their place."""

import logging
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset

from taming.data.base import ConcatDatasetWithIndex, ImagePaths
from taming.data.custom import CustomTrain
from taming.data.datamodule import DataModuleFromConfig
from taming.data.faults import MAX_IN_A_ROW, FaultPolicy, SkipFaulty
from taming.data.folder import FolderTrain, FolderValidation

SIZE = 8
FAULTY = (2, 3, 7)


@pytest.fixture
def folder(tmp_path):
    """Eight images `0.png` to `7.png`, as red as their number, of which three are broken."""
    for number in range(8):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 10), (number, 0, 0)).save(path)
        if number in FAULTY:
            path.write_bytes(path.read_bytes()[:40])
    return tmp_path / "images"


def numbers(batch):
    return [round((value + 1) * 127.5) for value in batch["image"][:, 0, 0, 0].tolist()]


def config(folder, **params):
    params = {"size": SIZE, "training_images_list_file": str(folder), **params}
    return {"target": "taming.data.custom.CustomTrain", "params": params}


def test_by_default_the_error_names_dataset_index_and_file(folder):
    dataset = CustomTrain(SIZE, folder)
    assert dataset[1]["image"].shape == (SIZE, SIZE, 3)
    with pytest.raises(OSError, match=r"^taming\.data\.custom\.CustomTrain: cannot read image .*") as error:
        dataset[2]
    assert str(error.value).endswith("(index 2)") and f"{folder}/2.png" in str(error.value)
    assert "\n" not in str(error.value) and type(error.value)(str(error.value)).args == error.value.args


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_puts_the_next_readable_item_there_and_reports_with_the_last_batch(folder, workers, caplog):
    data = DataModuleFromConfig(batch_size=3, validation=config(folder, on_error="skip"), num_workers=workers)
    data.setup()
    loader = data.val_dataloader()
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="taming"):
            batches = iter(loader)
            seen = [number for _ in range(3) for number in numbers(next(batches))]
        assert seen == [0, 1, 4, 4, 4, 5, 6, 0]
        reports = [record.getMessage() for record in caplog.records if "in this epoch" in record.getMessage()]
        assert reports == [
            "taming.data.custom.CustomTrain: 3 of 8 items could not be read in this epoch and were replaced: 2, 3, 7"
        ]
        del batches


def test_each_faulty_item_is_told_once(folder, caplog):
    dataset = CustomTrain(SIZE, folder, on_error="skip")
    for _ in range(3):
        list(dataset)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    for number, message in zip(FAULTY, told, strict=True):
        assert (
            message.startswith("skipped: ") and f"{folder}/{number}.png" in message and f"(index {number})" in message
        )


def test_folders_skip_too(folder):
    train, validation = (dataset(folder, SIZE, on_error="skip") for dataset in (FolderTrain, FolderValidation))
    assert len(list(train)) + len(list(validation)) == 8


def test_any_dataset_by_config(folder):
    dataset = SkipFaulty(data=config(folder))
    assert [item["file_path_"][-5] for item in dataset] == list("01444560")
    assert isinstance(dataset.data, CustomTrain) and len(dataset) == 8
    with pytest.raises(OSError, match=r"CustomTrain.*2\.png.*\(index 2\)$") as error:
        SkipFaulty(data=dataset.data, on_error="raise")[2]
    assert str(error.value).count("index") == 1


def test_parts_of_a_concatenation_report(folder, caplog):
    joined = ConcatDatasetWithIndex([CustomTrain(SIZE, folder, on_error="skip"), SkipFaulty(CustomTrain(SIZE, folder))])
    data = DataModuleFromConfig(batch_size=16, validation=config(folder), num_workers=0)
    data.datasets["validation"] = joined
    next(iter(data.val_dataloader()))
    assert caplog.text.count("3 of 8 items could not be read") == 2


def test_the_copy_of_a_pickled_dataset_skips(folder):
    dataset = pickle.loads(pickle.dumps(CustomTrain(SIZE, folder, on_error="skip")))
    assert dataset[2]["file_path_"].endswith("4.png")


def test_negative_indices_count_from_the_end_and_others_end_loops(folder):
    dataset = CustomTrain(SIZE, folder, on_error="skip")
    assert dataset[-1]["file_path_"] == dataset[0]["file_path_"]
    for index in (8, -9):
        with pytest.raises(IndexError):
            dataset[index]


def test_where_nothing_can_be_read_skipping_ends(tmp_path):
    few = ImagePaths([str(tmp_path / f"{i}.png") for i in range(3)], size=SIZE, on_error="skip")
    many = ImagePaths([str(tmp_path / f"{i}.png") for i in range(3 * MAX_IN_A_ROW)], size=SIZE, on_error="skip")
    for dataset, tried in ((few, 3), (many, MAX_IN_A_ROW)):
        with pytest.raises(ValueError, match=f"from index 1 on, not one of {tried} can be read: .*file not found"):
            dataset[1]


def test_mistakes_in_code_are_not_skipped():
    class Mistaken(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        SkipFaulty(Mistaken())[0]


def test_unknown_policy(folder):
    with pytest.raises(ValueError, match=r"CustomTrain: on_error is 'ignore'; expected raise or skip"):
        CustomTrain(SIZE, folder, on_error="ignore")


def test_only_the_first_faults_are_told_one_by_one(caplog):
    policy = FaultPolicy("skip", "some.Dataset", 60)

    def read(index):
        if index < 50:
            raise ValueError("broken")
        return index

    assert policy.item(read, 0) == 50
    assert len(caplog.records) == 10 and "further ones are only counted" in caplog.text
    policy.report()
    assert "some.Dataset: 50 of 60 items" in caplog.records[-1].getMessage()
    assert caplog.records[-1].getMessage().endswith("8, 9, ...")
    policy.report()
    assert len(caplog.records) == 11


def png_header(width, height):
    """The beginning of a PNG of this size, without its pixels."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))


def write_bad(folder, kind):
    path = folder / "bad.png"
    if kind == "20000 x 20000":
        path.write_bytes(png_header(20000, 20000))
    elif kind == "no image":
        path.write_text("<html>")
    elif kind == "a strip":
        Image.new("RGB", (5000, 1)).save(path)
    elif kind == "NaN":
        path = folder / "bad.tif"
        Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(path)
    elif kind == "a folder":
        path = folder / "bad.png"
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["20000 x 20000", "no image", "a strip", "NaN", "a folder", "missing"])
def test_bad_files_are_one_line_or_skipped(tmp_path, kind):
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    bad = write_bad(tmp_path, kind)
    paths = [str(bad), str(tmp_path / "good.png")]
    with pytest.raises((OSError, ValueError), match=str(bad)) as error:
        ImagePaths(paths, size=256)[0]
    assert "\n" not in str(error.value) and str(error.value).startswith("taming.data.base.ImagePaths: ")
    assert ImagePaths(paths, size=256, on_error="skip")[0]["file_path_"] == paths[1]


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("I;16", "png"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("L", "jpg"), ("1", "png")],
)
def test_unusual_modes_are_images(tmp_path, mode, suffix):
    for side in (1, 30):
        path = tmp_path / f"{side}.{suffix}"
        Image.new("L", (side, side), 255).convert(mode).save(path)
        image = ImagePaths([str(path)], size=SIZE)[0]["image"]
        assert image.shape == (SIZE, SIZE, 3) and np.isfinite(image).all() and np.ptp(image) == 0
