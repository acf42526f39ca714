"""Examples of the data and uploads in their places."""

import numpy as np
import pytest
import tiny_demo
import torch
from omegaconf import OmegaConf
from torch.utils.data import IterableDataset

from taming.demo.examples import check_numbered, prepare, read_example, split_names, takes_map, with_uploads
from taming.sampling.dataset_jobs import Split, build_split

PICTURE = np.linspace(-1, 1, 24 * 32 * 3, dtype=np.float32).reshape(24, 32, 3)


def example_of(kind, index=0):
    split = build_split(OmegaConf.create(tiny_demo.config_of(kind)))
    return tiny_demo.tiny_model(kind), split, read_example(split, index, 0)


def test_splits_are_sorted_and_none_is_built():
    config = OmegaConf.create(tiny_demo.config_of("depth", splits=("validation", "train")))
    config.data.params.train.params.keys = ["nothing of the kind"]
    assert split_names(config) == ["train", "validation"] and split_names(OmegaConf.create({})) == []


class Stream(IterableDataset):
    def __iter__(self):
        yield {}


def test_streams_and_empty_data_have_no_numbers():
    with pytest.raises(ValueError, match="split train: a stream has no numbered examples"):
        check_numbered(Split("train", Stream(), {}))
    with pytest.raises(ValueError, match="split train: the data set is empty"):
        check_numbered(Split("train", [], {}))


@pytest.mark.parametrize("kind", tiny_demo.STAGES)
def test_every_conditioning(kind):
    model, split, batch = example_of(kind)
    prepared = prepare(model, batch, split=split, index=0, scale_factor=1.0)
    assert prepared.encoded.tokens.shape == (1, 4, 4)
    assert prepared.image.shape == prepared.reconstruction.shape == (16, 16, 3)
    is_shown = kind not in ("class_label", "unconditional", "image")
    assert (prepared.picture is not None) == is_shown
    if kind.startswith("objects_"):
        assert min(prepared.picture.shape[:2]) >= 256, "names can be read"
    assert (prepared.condition_text or "").partition(":")[0] == ("" if kind == "unconditional" else kind)


def test_scaling():
    model, split, batch = example_of("segmentation")
    prepared = prepare(model, batch, split=split, index=0, scale_factor=1.5)
    assert prepared.encoded.images.shape == (1, 3, 24, 24) and prepared.encoded.condition.shape == (1, 6, 6)
    assert prepared.condition_text == "segmentation: (1, 9, 24, 24)" and prepared.picture.shape == (24, 24, 3)


@pytest.mark.parametrize("kind", ["unconditional", "image", "class_label", "coord"])
def test_a_picture_alone(kind):
    model = tiny_demo.tiny_model(kind)
    batch = with_uploads(model, None, picture=PICTURE) if kind != "class_label" else with_uploads(model, None)
    prepared = prepare(model, batch, split=None, index=0, scale_factor=1.0)
    assert prepared.encoded.tokens.shape == ((1, 4, 4) if kind == "class_label" else (1, 6, 8))


def test_coordinates_of_a_picture_are_those_of_the_whole():
    model, _, batch = example_of("coord")
    coord = with_uploads(model, batch, picture=PICTURE)["coord"]
    assert coord.shape == (1, 24, 32, 1) and coord.min() == 0 and 0.99 < coord.max() < 1


def test_a_picture_beside_the_examples_map_takes_its_size():
    model, _, batch = example_of("depth")
    changed = with_uploads(model, batch, picture=PICTURE)
    assert changed["image"].shape == (1, 16, 16, 3) and changed["depth"] is batch["depth"]
    assert not torch.equal(changed["image"], batch["image"])


def test_an_uploaded_map_with_and_without_a_picture():
    model, split, batch = example_of("depth")
    conditioning = PICTURE[:, :, :1]
    for picture in (None, PICTURE[:, :24]):
        changed = with_uploads(model, batch, conditioning=conditioning, picture=picture)
        assert changed["image"].shape == (1, 24, 32, 3) and bool(changed["image"].any()) == (picture is not None)
        prepared = prepare(model, changed, split=split, index=0, scale_factor=1.0)
        assert prepared.encoded.condition.shape == (1, 6, 8)


@pytest.mark.parametrize("kind", ["segmentation", "depth", "objects_bbox"])
def test_nothing_to_go_by(kind):
    with pytest.raises(ValueError, match=f"no example with {kind}"):
        with_uploads(tiny_demo.tiny_model(kind), None, picture=PICTURE)


def test_which_models_take_maps():
    assert {kind for kind in tiny_demo.STAGES if takes_map(tiny_demo.tiny_model(kind))} == {"segmentation", "depth"}
