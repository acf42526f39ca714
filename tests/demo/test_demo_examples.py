"""Examples of the data and uploads in their places."""

import numpy as np
import pytest
import tiny_demo
import torch
from omegaconf import OmegaConf
from torch.utils.data import IterableDataset

from taming.data.scene_layout import SceneLayout
from taming.demo.examples import Given, check_numbered, prepare, split_names, takes_map, with_given
from taming.sampling.dataset_jobs import Split, build_split, read_batch
from taming.sampling.text_jobs import prompt_key

PICTURE = np.linspace(-1, 1, 24 * 32 * 3, dtype=np.float32).reshape(24, 32, 3)


def example_of(kind, index=0):
    split = build_split(OmegaConf.create(tiny_demo.config_of(kind)))
    return tiny_demo.tiny_model(kind), split, read_batch(split.dataset, [index], 0)


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
    batch = with_given(model, None, None, Given(picture=None if kind == "class_label" else PICTURE))
    prepared = prepare(model, batch, split=None, index=0, scale_factor=1.0)
    assert prepared.encoded.tokens.shape == ((1, 4, 4) if kind == "class_label" else (1, 6, 8))


def test_coordinates_of_a_picture_are_those_of_the_whole():
    model, _, batch = example_of("coord")
    coord = with_given(model, batch, None, Given(picture=PICTURE))["coord"]
    assert coord.shape == (1, 24, 32, 1) and coord.min() == 0 and 0.99 < coord.max() < 1


def test_a_picture_beside_the_examples_map_takes_its_size():
    model, _, batch = example_of("depth")
    changed = with_given(model, batch, None, Given(picture=PICTURE))
    assert changed["image"].shape == (1, 16, 16, 3) and changed["depth"] is batch["depth"]
    assert not torch.equal(changed["image"], batch["image"])


def test_an_uploaded_map_with_and_without_a_picture():
    model, split, batch = example_of("depth")
    conditioning = PICTURE[:, :, :1]
    for picture in (None, PICTURE[:, :24]):
        changed = with_given(model, batch, split, Given(conditioning=conditioning, picture=picture))
        assert changed["image"].shape == (1, 24, 32, 3) and bool(changed["image"].any()) == (picture is not None)
        prepared = prepare(model, changed, split=split, index=0, scale_factor=1.0)
        assert prepared.encoded.condition.shape == (1, 6, 8)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("segmentation", "upload one in the sidebar, or give data"),
        ("depth", "upload one in the sidebar, or give data"),
        ("objects_bbox", "give data"),
        ("caption_bytes", "write one in the sidebar, or give data"),
    ],
)
def test_nothing_to_go_by(kind, remedy):
    with pytest.raises(ValueError, match=f"no example with {kind}, which this model needs: {remedy}"):
        with_given(tiny_demo.tiny_model(kind), None, None, Given(picture=PICTURE))


def prepared_with(kind, scale_factor=1.0, **given):
    model, split, batch = example_of(kind)
    given = Given(**given)
    changed = with_given(model, batch, split, given)
    return model, prepare(model, changed, split=split, index=1, scale_factor=scale_factor, given=given)


def test_a_layout_of_ones_own_is_read_and_drawn():
    layout = SceneLayout.parse(tiny_demo.LAYOUT)
    _, prepared = prepared_with("objects_bbox", layout=layout)
    assert prepared.key == (layout.key, 0) and np.ptp(prepared.image) == 0 and prepared.image.shape == (16, 16, 3)
    _, other = prepared_with("objects_bbox", layout=SceneLayout.parse({"objects": tiny_demo.LAYOUT["objects"][:1]}))
    assert not np.array_equal(prepared.picture, other.picture)
    tokens = {tuple(sorted(prepared.conditioning(seed)["c"][0].tolist())) for seed in range(3)}
    assert len(tokens) == 1 and tokens.pop() == tuple(sorted(prepared.encoded.condition[0].tolist()))
    assert prepared_with("objects_bbox", layout=layout, picture=PICTURE)[1].encoded.tokens.shape == (1, 6, 8)


def test_a_layout_needs_the_classes_of_a_data_set():
    layout = SceneLayout.parse({"objects": [{"class": "unicorn", "box": [0, 0, 1, 1]}]}, "mine.json")
    with pytest.raises(ValueError, match=r"mine.json: objects\[0\]: class 'unicorn' is none of the data set's"):
        prepared_with("objects_bbox", layout=layout)
    with pytest.raises(ValueError, match=r"mine.json: only a data set says what the classes of a layout are"):
        with_given(tiny_demo.tiny_model("objects_bbox"), None, None, Given(layout=layout))


def test_a_caption_of_ones_own():
    text = "a heath with a car"
    model, prepared = prepared_with("caption_bytes", caption=text)
    assert prepared.condition_text == f"caption_bytes: {text}" and prepared.key == (prompt_key(text), 1)
    assert model.cond_stage_model.captions_of(prepared.encoded.condition) == [text]
    _, own = prepared_with("caption_bytes")
    assert own.key == (None, 1) and np.array_equal(own.image, prepared.image)
    alone = with_given(model, None, None, Given(caption=text))
    assert alone["image"].shape == (1, 16, 16, 3) and not alone["image"].any()


def test_which_models_take_maps():
    assert {kind for kind in tiny_demo.STAGES if takes_map(tiny_demo.tiny_model(kind))} == {"segmentation", "depth"}
