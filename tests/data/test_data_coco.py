"""COCO's examples, and its images with captions and segmentations."""

import pickle
import random
import shutil

import numpy as np
import pytest
import tiny_captions
from paired_figures import check_examples, check_image, stripes
from parity import agree, cases, names
from shared_data import shared_data
from tiny_captions import LABELS, captions, write_captions

from taming.data.coco import CocoBase, CocoImagesAndCaptionsTrain, CocoImagesAndCaptionsValidation
from taming.data.segmentation import segmentation_name

CASES = cases("data_images")
STUFF = {"onehot_segmentation": True, "use_stuffthing": True}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The current folder, with COCO in it."""
    monkeypatch.chdir(tmp_path)
    tiny_captions.place()
    return tmp_path


def test_items(root):
    item = CocoImagesAndCaptionsValidation(32, **STUFF)[0]
    assert list(item) == ["image", "caption", "segmentation", "img_path", "seg_path", "filename_"]
    assert (item["image"].shape, item["image"].dtype) == ((32, 32, 3), np.float32)
    assert (item["segmentation"].shape, item["segmentation"].dtype) == ((32, 32, 183), np.int64)
    assert item["caption"] == ["a cat"]
    assert item["img_path"] == "data/coco/val2017/000000000004.jpg"
    assert item["seg_path"] == "data/cocostuffthings/val2017/000000000004.png"
    assert item["filename_"] == "000000000004.jpg"
    # 60 x 40 becomes 48 x 32, of which the middle 32 columns remain; ids are those of the file and one.
    expected = stripes(32, 48, [1, 42, 0])[:, 8:40]
    np.testing.assert_array_equal(item["segmentation"].argmax(axis=2), expected)


def test_coloured_segmentation(root):
    item = CocoImagesAndCaptionsTrain(None)[0]
    assert item["seg_path"] == "data/coco/annotations/stuff_train2017_pixelmaps/000000000004.png"
    expected = np.stack([stripes(40, 60, LABELS)] * 3, axis=2) / 127.5 - 1
    np.testing.assert_array_equal(item["segmentation"], expected.astype(np.float32))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"size": None}, (40, 60)),
        ({"size": None, "crop_size": 20}, (20, 20)),
        ({"size": 30, "crop_size": 20}, (20, 20)),
        ({"size": 30, "force_no_crop": True}, (30, 30)),
        ({"size": 30, "crop_size": 20, "force_no_crop": True}, (30, 30)),
    ],
)
def test_geometry(root, options, shape):
    for kind in (CocoImagesAndCaptionsTrain, CocoImagesAndCaptionsValidation):
        for segmentation in (STUFF, {}):
            item = kind(**options, **segmentation)[0]
            assert item["image"].shape[:2] == item["segmentation"].shape[:2] == shape


def test_only_training_crops_at_random(root):
    for kind, varies in ((CocoImagesAndCaptionsTrain, True), (CocoImagesAndCaptionsValidation, False)):
        data = pickle.loads(pickle.dumps(kind(None, crop_size=20, **STUFF)))
        random.seed(0)
        crops = [data[1]["segmentation"].tobytes() for _ in range(10)]
        assert (len(set(crops)) > 3) == varies
        random.seed(0)
        assert data[1]["segmentation"].tobytes() == crops[0]


def test_captions_are_drawn_from_those_of_the_image(root):
    data = CocoImagesAndCaptionsValidation(32)
    random.seed(0)
    assert {data[1]["caption"][0] for _ in range(50)} == {"one", "two", "three"}
    assert data[2]["caption"] == [""]


def test_chosen_files(root):
    data = CocoImagesAndCaptionsValidation(32, given_files=["000000000015.png", "x.png"])
    assert [data[i]["filename_"] for i in range(len(data))] == ["000000000015.jpg"]


def test_one_hot_of_coloured_segmentations(root):
    with pytest.raises(
        NotImplementedError, match=r"CocoImagesAndCaptionsTrain: onehot_segmentation=True .*use_stuffthing"
    ):
        CocoImagesAndCaptionsTrain(32, onehot_segmentation=True)


def test_another_caption_file(root):
    class Mine(CocoBase):
        def get_split(self):
            return "train"

    with pytest.raises(
        ValueError, match=r"Mine: datajson is 'x/captions\.json'; expected .*captions_train2017\.json or"
    ):
        Mine(32, "data/coco/train2017", "x/captions.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 4}]}, r"images\[0\] has no 'file_name'"),
        ({"annotations": [{"id": 4}]}, r"annotations\[0\] has no 'image_id' and no 'caption'"),
        ({"annotations": None}, "no list 'annotations'"),
    ],
)
def test_caption_files_that_lack_something(root, change, message):
    write_captions("captions_val2017.json", captions() | change)
    with pytest.raises(ValueError, match=rf"Validation: data/coco/annotations/captions_val2017\.json: {message}"):
        CocoImagesAndCaptionsValidation(32)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "holds no JSON object but a list")])
def test_files_that_are_no_captions(root, text, message):
    (root / "data/coco/annotations/captions_val2017.json").write_text(text)
    with pytest.raises(ValueError, match=rf"Validation: .*captions_val2017\.json .*{message}"):
        CocoImagesAndCaptionsValidation(32)


def test_missing_files_say_where_to_get_them(root):
    data = CocoImagesAndCaptionsTrain(32, **STUFF)
    shutil.rmtree("data/cocostuffthings")
    with pytest.raises(
        FileNotFoundError, match=r"Train: file not found: data/cocostuffthings/.*stuffthingmaps_trainval2017\.zip"
    ):
        data[0]
    shutil.rmtree("data/coco/train2017")
    with pytest.raises(FileNotFoundError, match=r"Train: file not found: data/coco/train2017/.*zips/train2017\.zip"):
        data[0]
    shutil.rmtree("data/coco/annotations")
    with pytest.raises(
        FileNotFoundError, match=r"Train: file not found: .*captions_train2017\.json; .*annotations_trainval2017\.zip"
    ):
        CocoImagesAndCaptionsTrain(32)


@pytest.mark.parametrize("name", names("data_images", "examples/coco/size="))
def test_published_examples(name, monkeypatch):
    check_examples(CASES[name], monkeypatch)


@pytest.fixture
def published_root(tmp_path, monkeypatch):
    """The real files that the published figures of the whole set were made with, in its layout."""
    files = CASES["coco-captions-validation/made-up-root"]["files"]
    folders = {"coco_images": "coco/val2017", "coco_segmentations": "cocostuffthings/val2017"}
    for source, target in folders.items():
        (tmp_path / "data" / target).mkdir(parents=True)
        for name in files:
            name = name if source == "coco_images" else segmentation_name(name)
            shutil.copy(shared_data() / source / name, tmp_path / "data" / target)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/coco/annotations").mkdir()
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
        "annotations": [{"image_id": i, "caption": f"caption of {i}"} for i in range(len(files))],
    }
    write_captions("captions_val2017.json", content)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 256, "crop_size": 256, "onehot_segmentation": True, "use_stuffthing": True},
        {"size": 128, "onehot_segmentation": True, "use_stuffthing": True, "force_no_crop": True},
        {"size": 100, "crop_size": 90, "use_stuffthing": True},
    ],
)
def test_published_images_and_captions(options, published_root):
    """One-hot labels differ from the published ones, which were interpolated: they are those of the file (QD8.2)."""
    stored = CASES["coco-captions-validation/made-up-root"]["outputs"][str(options)]
    data = CocoImagesAndCaptionsValidation(**options)
    item = data[0]
    assert (len(data), sorted(item)) == (stored["len"], stored["keys"])
    check_image(stored["image"], item["image"])
    agree({key: stored[key] for key in ("caption", "filename_", "img_path", "seg_path")}, item)
    if not data.onehot:
        check_image(stored["segmentation"], item["segmentation"])
        return
    assert (list(item["segmentation"].shape), str(item["segmentation"].dtype)) == (
        stored["segmentation"]["shape"],
        stored["segmentation"]["dtype"],
    )
    labels = item["segmentation"].argmax(axis=2)
    assert set(np.unique(labels)) <= {0, 1, 42, 155, 157}
    for label, count in stored["segmentation"]["label_pixels"].items():
        assert abs((labels == int(label)).sum() - count) < 0.02 * labels.size
