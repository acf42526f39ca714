"""What a second stage accepts as conditioning, what it says of the rest, and how it shows conditioning."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_demo
import torch
from parity import build, cases, inputs

from taming.data.datamodule import WrappedDataset
from taming.images import text_picture, to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.models.conditioning import check_condition, for_encoder, show_condition
from taming.models.dummy_cond_stage import DummyCondStage
from taming.modules.misc.coord import CoordStage
from taming.modules.util import Labelator
from taming.vocabulary import text_bytes

CASES = cases("net2net")
VOCABULARY = 40


def build_changed(name, part, **params):
    """The case's model with other parameters of one part; the figures of the case do not hold for it."""
    case = {key: value for key, value in CASES[name].items() if key not in ("state_dict", "parameters")}
    config = case["kwargs"][part]
    return build(case, **{part: config | {"params": config["params"] | params}})


@pytest.fixture(scope="module")
def class_model():
    return build(CASES["net2net/class"])


@pytest.mark.parametrize("label", [10, -1])
def test_a_label_that_the_stage_does_not_have(class_model, label):
    with pytest.raises(ValueError, match=rf"class label {label} is out of range: .*n_classes=10 allows 0 to 9"):
        class_model.encode_to_c(torch.tensor([0, label]))


def test_labels_beyond_the_vocabulary():
    model = build_changed("net2net/class", "cond_stage_config", n_classes=100)
    assert model.encode_to_c(torch.tensor([39]))[1].tolist() == [[39]]
    with pytest.raises(ValueError, match="conditioning token 40 is outside the transformer's vocabulary, 0 to 39"):
        model.encode_to_c(torch.tensor([40]))


@pytest.mark.parametrize(
    ("stage", "tokens"),
    [
        (DummyCondStage("objects_bbox"), torch.tensor([[3, VOCABULARY]])),
        (DummyCondStage("objects_bbox"), torch.tensor([[-1, 3]])),
        (CoordStage(VOCABULARY, 2), CoordStage(VOCABULARY, 2).encode(torch.ones(1, 1, 4, 4))[2][2].view(1, -1)),
    ],
)
def test_tokens_outside_the_vocabulary(stage, tokens):
    """The coordinate 1 has the index after the stage's own vocabulary (decision D12)."""
    with pytest.raises(ValueError, match=r"raise transformer_config.params.vocab_size, or check cond_stage_config"):
        check_condition(tokens, stage, VOCABULARY)
    check_condition(tokens.clamp(0, VOCABULARY - 1), stage, VOCABULARY)


def test_tokens_without_values_are_not_looked_at():
    check_condition(torch.zeros(0, 4, dtype=torch.int64), Labelator(3), VOCABULARY)
    check_condition(torch.zeros(2, 4, dtype=torch.int64, device="meta"), Labelator(3), VOCABULARY)


def test_a_codebook_larger_than_the_vocabulary():
    """Said at the first image, not before: weights of another size are reported with the key that differs."""
    model = build_changed("net2net/class", "transformer_config", vocab_size=39)
    with pytest.raises(ValueError, match=r"first_stage_config has a codebook of 40 codes, the transformer reads 39: "):
        model(torch.zeros(1, 3, 32, 32), torch.tensor([0]))


def test_a_conditioning_codebook_larger_than_the_vocabulary():
    model = build_changed("net2net/depth", "cond_stage_config", n_embed=50)
    with pytest.raises(ValueError, match=r"cond_stage_config has a codebook of 50 codes, .*vocab_size to 50 or more"):
        model.encode_to_c(inputs(CASES["net2net/depth"])["c"])


def test_a_batch_without_the_key(class_model):
    with pytest.raises(ValueError, match="the batch has no 'class_label', only 'image', 'depth': set first_stage_key"):
        class_model.get_xc({"image": torch.zeros(1, 32, 32, 3), "depth": torch.zeros(1, 32, 32)})


def test_conditioning_that_is_no_image_is_not_shown():
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    assert show_condition(DummyCondStage("caption"), "caption", tokens, tokens) == {}
    assert show_condition(Labelator(3), "class_label", tokens[:, 0], tokens) == {}
    grid = torch.zeros(2, 1, 4, 4)
    assert show_condition(CoordStage(8, 2), "image", grid, grid) == {}


def test_without_the_input_the_reconstruction_is_shown():
    """From cached codes."""
    assert set(show_condition(CoordStage(8, 2), "coord", None, torch.zeros(2, 1, 4, 4))) == {"conditioning_rec"}


def test_encoders_read_the_fastest_memory_format():
    """On a CPU; what is no image, and stages of other kinds, get what they always got."""
    model, x = build(CASES["net2net/depth"]), torch.randn(2, 3, 32, 32)
    assert for_encoder(x, model.first_stage_model).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.encode_to_z(x)[1].flatten(), model.first_stage_model.encode(x)[2][2])
    assert for_encoder(x, CoordStage(8, 2)) is x
    labels = torch.zeros(2)
    assert for_encoder(labels, model.first_stage_model) is labels


class Layouts:
    """A data set that can draw layouts of one kind."""

    def __init__(self, key):
        self.conditional_builders = {key: SimpleNamespace(plot=self.plot)}
        self.drawn = []

    @staticmethod
    def get_textual_label_for_category_no(category_no):
        return f"class {category_no}"

    def plot(self, conditional, label_for_category_no, figure_size):
        self.drawn.append(conditional.tolist())
        assert label_for_category_no(3) == "class 3"
        width, height = figure_size
        return torch.full((3, height, width), conditional[0] / 64)


@pytest.fixture
def log_layouts(monkeypatch):
    """A function that logs two images of 64 x 16 pixels in a run with these data sets; also gives the layouts' tokens.

    The samples are left out.
    """
    monkeypatch.setattr(Net2NetTransformer, "_samples", lambda *_: {})

    def log(key, **datasets):
        case = CASES["net2net/objects"]
        tokens = inputs(case)["c"]
        images = torch.rand(2, 16, 64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
        run = SimpleNamespace(_trainer=SimpleNamespace(datamodule=SimpleNamespace(datasets=datasets)))
        module = run if datasets else None
        batch = {"image": images, key: tokens}
        return build(case, cond_stage_key=key).log_images(batch, split="val", pl_module=module), tokens

    return log


@pytest.mark.parametrize("key", ["objects_bbox", "objects_center_points"])
@pytest.mark.parametrize("wrap", [False, True])
def test_layouts_are_drawn_by_the_data_set(key, wrap, log_layouts):
    """Decision D64: width first, and out of a WrappedDataset."""
    dataset, other = Layouts(key), Layouts(key)
    datasets = {"train": other, "validation": WrappedDataset(dataset) if wrap else dataset}
    logged, tokens = log_layouts(key, **datasets)
    assert dataset.drawn == tokens.tolist() and not other.drawn
    assert logged["conditioning"].shape == logged["inputs"].shape == (2, 3, 16, 64)
    assert torch.equal(logged["conditioning"][:, 0, 0, 0], tokens[:, 0] / 64)
    assert torch.equal(logged["conditioning"], logged["conditioning_rec"])
    assert set(logged) == {"inputs", "reconstructions", "conditioning", "conditioning_rec"}


def test_layouts_are_drawn_by_whichever_data_set_can(log_layouts):
    dataset = Layouts("objects_bbox")
    logged, _ = log_layouts("objects_bbox", train=dataset, validation=Layouts("objects_center_points"))
    assert "conditioning" in logged and len(dataset.drawn) == 2
    for datasets in ({"validation": []}, {}):  # a data set that cannot, and no trainer at all
        logged, _ = log_layouts("objects_bbox", **datasets)
        assert set(logged) == {"inputs", "reconstructions"}


def test_captions_are_written(monkeypatch):
    """What is cut off is not read; from cached codes the same."""
    monkeypatch.setattr(Net2NetTransformer, "_samples", lambda *_: {})
    model = tiny_demo.tiny_model("caption_bytes")
    texts = ["two trees", "a heath with a car and two trees"]
    batch = {"image": torch.zeros(2, 16, 16, 3), "caption_bytes": torch.from_numpy(text_bytes(texts))}
    logged = model.log_images(batch)
    read = model.cond_stage_model.captions_of(model.encode_to_c(batch["caption_bytes"])[1])
    assert read[0] == texts[0] and texts[1].startswith(read[1])
    expected = np.stack([text_picture(text) for text in read]).astype(int)
    for key in ("conditioning", "conditioning_rec"):
        assert np.abs(to_uint8(logged[key]) - expected).max() <= 1
    tokens = model.encode_to_c(batch["caption_bytes"])[1]
    assert set(show_condition(model.cond_stage_model, "caption_bytes", None, tokens)) == {"conditioning_rec"}
