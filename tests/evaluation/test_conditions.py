"""taming.evaluation.conditions: real scenes score near 1, others near what chance gives, by hand and by the command."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny_configs import first_stage

from taming.cli import run_command
from taming.config import ConfigError, instantiate_from_config
from taming.data.helper_types import Annotation
from taming.data.scenes import ScenesValidation
from taming.data.utils import custom_collate
from taming.evaluation.conditions import (
    MEASURES,
    SHOWN_SIDE,
    boxes_held,
    centres_held,
    depth_correlation,
    evaluate_condition,
    examples,
    kind_of,
    label_maps,
    mean_iou,
    objects_named,
    sample_unconditional,
    scenes_of,
)

ROOT = Path(__file__).parents[2]
COUNT = 48
LABELATOR = {"target": "taming.modules.util.Labelator", "params": {"n_classes": 4}}
LAYOUTS = {"target": "taming.models.dummy_cond_stage.DummyCondStage", "params": {"conditional_key": "objects_bbox"}}


def stage(channels, **params):
    """An autoencoder of 32 pixels and 16 x 16 tokens of 16 codes."""
    config = first_stage(resolution=32, n_embed=16, **params)
    config["params"]["ddconfig"] |= {"in_channels": channels, "out_ch": channels}
    return config


CONDITIONS = {
    "class_label": LABELATOR,
    "objects_bbox": LAYOUTS,
    "segmentation": stage(9),
    "image": "__is_unconditional__",
}
"""Key -> conditioning stage."""


def tiny_model(key):
    """An untrained model of a conditioning on the scene world, and the config."""
    params = {
        "cond_stage_key": key,
        "transformer_config": {
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {"vocab_size": 256, "block_size": 511, "n_layer": 1, "n_head": 1, "n_embd": 8},
        },
        "first_stage_config": stage(3),
        "cond_stage_config": CONDITIONS[key],
    }
    scenes = {"target": "taming.data.scenes.ScenesValidation", "params": {"size": 32, "keys": ["image", key]}}
    model = {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": params}
    data = {"target": "main.DataModuleFromConfig", "params": {"batch_size": 4, "validation": scenes}}
    config = OmegaConf.create({"model": model, "data": data})
    torch.manual_seed(0)
    return instantiate_from_config(config.model).eval(), config


@pytest.fixture(scope="module")
def scenes():
    return ScenesValidation(length=COUNT)


@pytest.fixture(scope="module")
def wanted(scenes):
    return custom_collate([scenes[index] for index in range(COUNT)])


@pytest.fixture(scope="module")
def images(wanted):
    return wanted["image"].permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("key", "best", "chance"),
    [
        ("segmentation", 0.88, 0.35),
        ("depth", 0.85, 0.15),
        ("objects_bbox", 0.95, 0.35),
        ("objects_center_points", 0.95, 0.40),
        ("class_label", 0.95, 0.05),
        ("caption_bytes", 0.85, 0.65),
    ],
)
def test_real_images_score_near_one_and_those_of_other_scenes_do_not(key, best, chance, scenes, wanted, images):
    score = MEASURES[key].score
    assert score(images, wanted, scenes) >= best
    assert score(images.roll(7, dims=0), wanted, scenes) <= chance


def test_position_is_told_by_the_sky():
    crops = ScenesValidation(size=48, crop_size=32, length=COUNT)
    batch = custom_collate([crops[index] for index in range(COUNT)])
    images = batch["image"].permute(0, 3, 1, 2)
    score = MEASURES["coord"].score
    assert score(images, batch, crops) > 0.6 > 0.3 > abs(score(images.roll(7, dims=0), batch, crops))


def test_label_of_the_nearest_colour():
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-0.9, 0.9, -1]])
    images = torch.tensor([[0.8, -1.0], [-0.9, 1.0], [-0.7, -1.0]]).view(1, 3, 1, 2)
    assert label_maps(images, colours, torch.tensor([4, 7, 7])).tolist() == [[[4, 7]]]


def test_iou_by_hand():
    wanted = torch.tensor([[[0, 0], [1, 1]]])
    found = torch.tensor([[[0, 2], [1, 1]]])
    assert mean_iou(found, wanted, 3) == pytest.approx((0.5 + 1.0) / 2)  # label 2 is in no wanted map
    assert mean_iou(wanted, wanted, 3) == 1


def test_depth_counts_only_what_differs_from_the_average_scene():
    generator = torch.Generator().manual_seed(0)
    common = torch.linspace(-1, 1, 64).view(8, 8)
    depth = common + 0.3 * torch.rand(16, 8, 8, generator=generator)
    bright = -depth[:, None].expand(-1, 3, -1, -1)
    assert depth_correlation(bright, depth) == pytest.approx(1, abs=1e-6)
    assert abs(depth_correlation(-common.expand(16, 3, 8, 8), depth)) < 0.1
    assert depth_correlation(torch.zeros(16, 3, 8, 8), depth) < 0.1  # no contrast at all


def annotation(bbox):
    return Annotation(area=0.0, image_id="0", bbox=bbox, category_no=0, category_id="ball")


def test_boxes_and_centres_by_hand():
    found = torch.zeros(1, 20, 20, dtype=torch.long)
    found[0, 4:8, 4:12] = 3
    objects = [[annotation((0.2, 0.2, 0.4, 0.2)), annotation((0.5, 0.5, 0.4, 0.4)), annotation((0.2, 0.2, 0.8, 0.2))]]
    assert boxes_held(found, objects, lambda name: 3) == pytest.approx(2 / 3)  # the last is half full
    assert centres_held(found, objects, lambda name: 3) == pytest.approx(2 / 3)  # its centre is next to the object
    assert boxes_held(found, [[]], lambda name: 3) == 0


def test_kind_of_scene_by_ground_and_sea():
    names = ["sky", "grass", "sand", "heather", "sea"]
    map_ = torch.zeros(10, 10, dtype=torch.long)
    map_[5:] = 2
    assert kind_of(map_, names) == "desert"
    map_[5] = 4
    assert kind_of(map_, names) == "coast"
    map_[6:] = 3
    assert kind_of(map_, names) == "heath"


def test_objects_named_by_hand():
    map_ = torch.zeros(2, 10, 10, dtype=torch.long)
    map_[0, :2] = 1
    objects = {"car": 1, "tree": 2}
    assert objects_named(map_, ["a heath with a car", "a meadow"], objects) == 1
    assert objects_named(map_, ["a heath", "a meadow with a car"], objects) == pytest.approx((0 + 2 / 3) / 2)
    assert objects_named(map_, ["a car and two trees", "a car"], objects) == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("key", ["segmentation", "objects_bbox", "class_label"])
def test_an_untrained_model_is_scored_beside_real_images(key):
    model, config = tiny_model(key)
    unconditional = sample_unconditional(tiny_model("image")[0], count=8, seed=0, batch_size=5, top_k=10)
    scores = evaluate_condition(
        model, scenes_of(config), count=8, seed=0, batch_size=5, unconditional=unconditional, top_k=10
    )
    assert list(scores) == ["real images", "reconstructions", "samples", "unconditional samples"]
    assert scores["real images"] > 0.8 > scores["samples"]
    again = evaluate_condition(model, scenes_of(config), count=8, seed=0, batch_size=8, top_k=10)
    assert again["samples"] == pytest.approx(scores["samples"], abs=1e-3)  # whatever the batch size


def test_pictures_of_conditions_and_of_samples_given_them():
    model, config = tiny_model("objects_bbox")
    rows = examples(model, scenes_of(config), count=2, seed=0)
    assert list(rows) == ["boxes", "given boxes"]
    drawn, sampled = rows.values()
    assert drawn.shape == (2, 3, SHOWN_SIDE, SHOWN_SIDE) and (drawn[0] != drawn[1]).any()
    assert sampled.shape == (2, 3, 32, 32) and sampled.abs().max() <= 1
    with pytest.raises(ValueError, match="'class_label' cannot be shown; segmentation, depth"):
        examples(tiny_model("class_label")[0], scenes_of(config), count=2, seed=0)


def test_what_cannot_be_measured_is_said():
    model, config = tiny_model("image")
    with pytest.raises(ValueError, match="cannot be measured; segmentation, depth"):
        evaluate_condition(model, scenes_of(config), count=8, seed=0)
    model, config = tiny_model("class_label")
    with pytest.raises(ValueError, match="count=999"):
        evaluate_condition(model, scenes_of(config), count=999, seed=0)
    with pytest.raises(ValueError, match="conditioned on 'class_label'"):
        sample_unconditional(model, count=4, seed=0)


def test_other_data_are_refused():
    _, config = tiny_model("class_label")
    config.data.params.validation.params.world = "rich"
    with pytest.raises(ConfigError, match="world simple only"):
        scenes_of(config)
    config.data.params.validation.target = "taming.data.digits.DigitsValidation"
    with pytest.raises(ConfigError, match="CaptionedScenesValidation only"):
        scenes_of(config)


def test_the_command_prints_and_writes_the_scores(tmp_path, capsys):
    model, config = tiny_model("class_label")
    run = tmp_path / "run"
    (run / "configs").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    OmegaConf.save(config, run / "configs" / "x-project.yaml")
    torch.save({"state_dict": model.state_dict(), "global_step": 0}, run / "checkpoints" / "last.ckpt")
    spec = importlib.util.spec_from_file_location("evaluate_conditions", ROOT / "scripts" / "evaluate_conditions.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    arguments = [str(run), "-n", "4", "--device", "cpu", "--json", str(tmp_path / "scores.json")]
    assert run_command(command.main, arguments) == 0
    assert "kind of scene by the ground's colour" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())[str(run)]
    assert scores["real images"] == 1 and set(scores) == {"real images", "reconstructions", "samples"}
