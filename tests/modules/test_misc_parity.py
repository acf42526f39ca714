"""Small pieces against the published implementation: schedule, weightless conditioning stages, helpers."""

import re

import numpy as np
import pytest
import torch
from parity import agree, cases, inputs, names

from taming.data.helper_types import Annotation
from taming.data.utils import custom_collate, quadratic_crop
from taming.lr_scheduler import LambdaWarmUpCosineScheduler
from taming.models.dummy_cond_stage import DummyCondStage
from taming.modules.misc.coord import CoordStage
from taming.modules.util import Labelator, SOSProvider
from taming.nested import KeyNotFoundError, retrieve
from taming.training.learning_rate import LearningRateRule

CASES = cases("misc")


@pytest.mark.parametrize("name", names("misc", "lr-scheduler"))
def test_schedule(name):
    case = CASES[name]
    schedule = LambdaWarmUpCosineScheduler(**case["kwargs"])
    assert schedule.last_lr == case["outputs"]["last_lr_before_any_call"]
    for step, multiplier in case["outputs"]["step, multiplier"]:
        assert schedule(step) == pytest.approx(multiplier, rel=1e-8)
    assert schedule.last_lr == pytest.approx(case["outputs"]["last_lr"])


def test_sos_provider():
    case = CASES["sos-provider"]
    x = torch.rand(case["batch"], 3, 8, 8)
    quant, second, info = SOSProvider(**case["kwargs"]).encode(x)
    without = SOSProvider(**case["kwargs"], quantize_interface=False).encode(x)
    agree(case["outputs"], {"quant": quant, "second": second, "info": info, "without_interface": without})


def test_labelator():
    case = CASES["labelator"]
    labels = torch.tensor(case["labels"])
    quant, second, info = Labelator(**case["kwargs"]).encode(labels)
    without = Labelator(**case["kwargs"], quantize_interface=False).encode(labels)
    float_quant, _, float_info = Labelator(**case["kwargs"]).encode(labels.float())
    dtypes = {"quant_dtype": str(float_quant.dtype), "indices_dtype": str(float_info[2].dtype)}
    got = {"quant": quant, "second": second, "info": info, "without_interface": without, "from_float_labels": dtypes}
    agree(case["outputs"], got)


@pytest.mark.parametrize("name", [name for name in names("misc", "coord-stage") if "inputs" in CASES[name]])
def test_coord_stage(name):
    case = CASES[name]
    stage, x = CoordStage(**case["kwargs"]).eval(), inputs(case)["x"]
    quant, second, info = stage.encode(x)
    height, width = x.shape[2:]
    ramp = (torch.arange(height * width).reshape(1, 1, height, width) / (height * width)).float()
    ramp_quant, _, ramp_info = stage.encode(ramp)
    got = {"quant": quant, "second": second, "indices": info[2], "decode": stage.decode(quant)}
    agree(case["outputs"], got | {"ramp_indices": ramp_info[2], "ramp_decode": stage.decode(ramp_quant)})
    assert info[:2] == (None, None)


def test_coord_stage_reaches_the_index_after_its_vocabulary():
    """Decision D12."""
    case = CASES["coord-stage/largest-index"]
    _, _, info = CoordStage(**case["kwargs"]).encode(torch.ones(1, 1, 16, 16))
    agree(case["outputs"], {"indices_of_all_ones": info[2]})


@pytest.mark.parametrize("down_factor", [3, 49])
def test_coord_stage_rounds_the_grid_down(down_factor):
    """49 * (1 / 49) is below 1."""
    size = 2 * down_factor
    quant, _, _ = CoordStage(n_embed=8, down_factor=down_factor).encode(torch.rand(1, 1, size, size + down_factor - 1))
    assert quant.shape == (1, 1, 2, 2)
    quant, _, _ = CoordStage(n_embed=8, down_factor=down_factor).encode(torch.ones(1, 1, down_factor, down_factor))
    assert quant.tolist() == [[[[8.0]]]]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_coord_stage_wants_coordinates_from_0_to_1(value):
    with pytest.raises(AssertionError, match=re.escape("[0, 1]")):
        CoordStage(n_embed=8, down_factor=2).encode(torch.full((1, 1, 4, 4), value))


def test_dummy_cond_stage():
    case = CASES["dummy-cond-stage"]
    stage = DummyCondStage("objects_bbox")
    c = torch.tensor([[1, 2, 3]])
    quant, second, info = stage.encode(c)
    agree(case["outputs"], {"quant": quant, "second": second, "info": info})
    assert stage.decode(c) is c and stage.to_rgb(c) is c
    assert stage.eval() is stage and stage.train is None and stage.conditional_key == "objects_bbox"
    assert not isinstance(stage, torch.nn.Module)


def test_learning_rate():
    for accumulate, devices, batch_size, base, expected in CASES["learning-rate"]["outputs"]:
        rate = LearningRateRule(base, batch_size=batch_size, devices=devices, accumulate=accumulate).rate
        assert rate == pytest.approx(expected, rel=1e-8)


def test_custom_collate():
    case = CASES["custom-collate"]
    annotation = Annotation(area=1.0, image_id="i", bbox=(0.0, 0.0, 1.0, 1.0), category_no=3, category_id="c")
    samples = [
        {
            "image": np.full((2, 2, 3), i, dtype=np.float32),
            "file_name": f"f{i}",
            "y": i,
            "f": 0.5 * i,
            "annotations": [annotation] * (i + 1),
            "tokens": torch.tensor([i, 2 * i]),
            "pair": (i, f"s{i}"),
        }
        for i in (0, 1)
    ]
    batch = custom_collate(samples)
    annotations = batch.pop("annotations")
    got = batch | {
        "f_dtype": str(batch["f"].dtype),
        "annotations_lengths": [len(objects) for objects in annotations],
        "annotations_is_the_batch_list": all(
            objects is sample["annotations"] for objects, sample in zip(annotations, samples, strict=True)
        ),
    }
    agree(case["outputs"], got)


@pytest.mark.parametrize("arguments", CASES["quadratic-crop"]["outputs"])
def test_quadratic_crop(arguments):
    *bbox, alpha = (float(number) for number in re.findall(r"[\d.]+", arguments))
    crop = quadratic_crop(np.arange(20 * 30 * 2).reshape(20, 30, 2), bbox, alpha)
    agree(CASES["quadratic-crop"]["outputs"][arguments], crop)


def test_retrieve():
    stored = CASES["retrieve"]["outputs"]
    tree = {"a": {"b": [10, {"c": 5}]}, "f": lambda: {"g": 1}}
    got = {key: retrieve(tree, key) for key in ("a/b/1/c", "a/b/0", "f/g")}
    got["missing with default 7"] = retrieve(tree, "a/x", default=7)
    got["missing with pass_success"] = list(retrieve(tree, "a/x", default=7, pass_success=True))
    agree(stored, got | {"...": 1})
    with pytest.raises(KeyNotFoundError):
        retrieve(tree, "a/x")
