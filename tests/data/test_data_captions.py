"""Images with captions: of rendered scenes, and of files like COCO's."""

import json

import numpy as np
import pytest
import torch
from paired_figures import as_image, stripes, write

from taming.data.captions import (
    CaptionedScenesTrain,
    CaptionedScenesValidation,
    CocoCaptionsTrain,
    CocoCaptionsValidation,
)
from taming.data.scenes import ScenesTrain
from taming.data.utils import custom_collate
from taming.vocabulary import bytes_text

CAPTIONS = [(8, "one"), (4, " a cat \n"), (8, "two"), (8, "three")]


def content():
    return {
        "images": [{"id": id_, "file_name": f"{id_:012}.jpg"} for id_ in (4, 8, 15)],
        "annotations": [{"image_id": id_, "caption": caption} for id_, caption in CAPTIONS],
    }


@pytest.fixture
def root(tmp_path):
    """Three images of 60 x 40 pixels in each split; image 15 has no caption."""
    (tmp_path / "annotations").mkdir()
    for part in ("train2017", "val2017"):
        for id_ in (4, 8, 15):
            write(tmp_path / part / f"{id_:012}.jpg", as_image(stripes(40, 60, [0, 41, 255])))
        (tmp_path / "annotations" / f"captions_{part}.json").write_text(json.dumps(content()))
    return tmp_path


def test_scenes_have_the_bytes_of_their_captions():
    data = CaptionedScenesValidation(16, 4, keys=["image", "caption"])
    batch = custom_collate([data[i] for i in range(4)])
    assert list(batch) == ["image", "caption", "caption_bytes"]
    assert batch["caption_bytes"].shape == (4, 256) and batch["caption_bytes"].dtype == torch.uint8
    assert [bytes_text(row) for row in batch["caption_bytes"].numpy()] == batch["caption"] == list(data.captions())


def test_scenes_are_those_without():
    data, plain = CaptionedScenesTrain(16, 2), ScenesTrain(16, 2)
    assert np.array_equal(data[1]["image"], plain[1]["image"]) and data[1]["caption"] == plain[1]["caption"]


def test_keys_without_a_caption():
    with pytest.raises(ValueError, match=r"CaptionedScenesTrain: keys=\['image'\] must have caption"):
        CaptionedScenesTrain(16, 2, keys=["image"])[0]


def test_validation_has_the_first_caption_and_the_middle(root):
    data = CocoCaptionsValidation(32, root)
    assert len(data) == 2, "images without captions are left out"
    assert [data[i]["caption"] for i in range(2)] == ["a cat", "one"]
    assert data[1]["image"].shape == (32, 32, 3) and bytes_text(data[1]["caption_bytes"]) == "one"
    assert data[0]["file_path_"].endswith("val2017/000000000004.jpg")
    assert np.array_equal(data[0]["image"], data[0]["image"])


def test_training_has_any_caption_and_any_place(root):
    data = CocoCaptionsTrain(32, root)
    items = [data[1] for _ in range(40)]
    assert {item["caption"] for item in items} == {"one", "two", "three"}
    assert len({item["image"].tobytes() for item in items}) > 3
    assert sorted(data.captions()) == ["a cat", "one", "three", "two"]


def test_long_captions_are_cut(root):
    file = root / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps(content() | {"annotations": [{"image_id": 8, "caption": "ä" * 200}]}))
    item = CocoCaptionsValidation(32, root)[0]
    assert item["caption"] == "ä" * 200 and bytes_text(item["caption_bytes"]) == "ä" * 128


def test_what_is_missing_is_named(root):
    file = root / "annotations" / "captions_train2017.json"
    file.write_text(json.dumps(content() | {"annotations": []}))
    with pytest.raises(ValueError, match=r"captions_train2017\.json: none of its 3 images has a caption"):
        CocoCaptionsTrain(32, root)
    file.write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match=r"CocoCaptionsTrain: .*captions_train2017\.json: no list 'annotations'"):
        CocoCaptionsTrain(32, root)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"captions_train2017\.json; get it from http://images.cocodataset.org"):
        CocoCaptionsTrain(32, root)
    (root / "val2017" / "000000000004.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000000000004\.jpg.*zips/val2017\.zip"):
        CocoCaptionsValidation(32, root)[0]
