"""scripts/make_scene_samples.py on the example annotations, from training to rows of samples."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from tiny_configs import first_stage
from tiny_runs import fit, run_folders

from taming.cli import run_command

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_scene_samples.py"
SPEC = importlib.util.spec_from_file_location("make_scene_samples", SCRIPT)
make_scene_samples = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_scene_samples)

SIDE, FACTOR, LAYOUT = 4, 16, 92
"""Of a window, in tokens of 16 x 16 pixels; tokens of thirty boxes and the crop."""
HOUSE = {"class": "house", "box": [0.0, 0.0, 0.25, 0.5]}


def scenes(split):
    return {
        "target": "taming.data.annotated_objects_coco.AnnotatedObjectsCoco",
        "params": {
            "data_path": str(ROOT / "data" / "coco_annotations_100"),
            "split": split,
            "keys": ["image", "objects_bbox", "file_name", "annotations"],
            "no_tokens": 1024,
            "target_image_size": SIDE * FACTOR,
            "min_object_area": 0.00001,
            "min_objects_per_image": 2,
            "max_objects_per_image": 30,
            "crop_method": "random-1d" if split == "train" else "center",
            "random_flip": split == "train",
            "use_group_parameter": True,
            "encode_crop": True,
        },
    }


def config():
    stage = first_stage(resolution=SIDE * FACTOR, n_embed=12)
    stage["params"]["ddconfig"]["ch_mult"] = [1, 1, 1, 1, 1]
    sizes = {"vocab_size": 1024, "block_size": LAYOUT + SIDE**2 - 1, "n_layer": 1, "n_head": 2, "n_embd": 16}
    return {
        "model": {
            "base_learning_rate": 0.01,
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {
                "cond_stage_key": "objects_bbox",
                "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes},
                "first_stage_config": stage,
                "cond_stage_config": {
                    "target": "taming.models.dummy_cond_stage.DummyCondStage",
                    "params": {"conditional_key": "objects_bbox"},
                },
            },
        },
        "data": {
            "target": "main.DataModuleFromConfig",
            "params": {
                "batch_size": 6,
                "num_workers": 0,
                "wrap": True,
                "train": scenes("train"),
                "validation": scenes("validation"),
            },
        },
        "lightning": {"trainer": {"enable_progress_bar": False, "enable_model_summary": False, "max_steps": 2}},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of two training steps."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        OmegaConf.save(OmegaConf.create(config()), "scenes.yaml")
        fit("scenes.yaml")
        (logdir,) = run_folders()
    return str(folder / logdir)


def picture(path):
    return np.asarray(Image.open(path))


def test_rows_of_the_validation_split(run, tmp_path, capsys):
    arguments = ["-r", run, "--outdir", str(tmp_path), "-N", "2", "--num_samples", "7"]
    make_scene_samples.main(arguments)
    folder = tmp_path / "000002_100_1.0"
    names = [*(f"0000_{place:02}.png" for place in range(6)), "0001_00.png"]
    assert sorted(path.name for path in folder.glob("*.png")) == names
    assert picture(folder / names[0]).shape == (64 + 4, 3 * (64 + 2) + 2, 3)
    recorded = json.loads((folder / "sampling.json").read_text())
    assert recorded["seed"] == 42424242 and recorded["resolution"] == [64, 64]
    assert "7 layouts x 2 samples of 64 x 64 pixels; seed 42424242" in capsys.readouterr().out
    make_scene_samples.main(arguments)
    assert "7 of them finished" in capsys.readouterr().out


def test_acceptance_of_a_wide_layout_of_ones_own(run, tmp_path):
    """256,512: a row of N + 1 tiles, the plot upright and on white."""
    layout = tmp_path / "street.json"
    layout.write_text(json.dumps({"objects": [HOUSE]}))
    arguments = ["-r", run, "--outdir", str(tmp_path), "--resolution", "256,512", "-N", "1", "--layout", str(layout)]
    make_scene_samples.main(arguments)
    (path,) = (tmp_path / "000002_100_1.0").glob("street_*.png")
    made = picture(path)
    assert made.shape == (256 + 4, 2 * (512 + 2) + 2, 3)
    plot = made[2:258, 2 + 514 : 2 + 514 + 512]
    inside = plot[4:-4, 4:-4]  # the crop's frame surrounds it
    assert (inside == 255).mean() > 0.9
    coloured = np.argwhere((inside != 255).any(axis=2))
    height, width = coloured.max(axis=0) + 4
    assert abs(height - 128) < 16 and abs(width - 128) < 16, "the house covers the upper left"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resolution", "256"], "--resolution 256: expected height and width in pixels, such as 256,512"),
        (["-R", "256,256,256"], "--resolution 256,256,256: expected height and width"),
        (["-R", "0,256"], "resolution must be positive"),
        (["-C", "objects_center_points"], "this model reads objects_bbox, leave the option out"),
        (["-N", "0"], "n_samples_per_layout must be positive"),
        (["--split", "test"], "split test: the data have train, validation"),
        (["--window", "9"], "block_size 107; at most 4 can be its side"),
        (["--layout", "nowhere.json"], "file not found: nowhere.json; write one such as"),
        (["data.params.validation.params.keys=[image]"], "items have only image; add annotations"),
        (["--resolutoin", "256,256"], "did you mean --resolution?"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, message):
    assert run_command(make_scene_samples.main, ["-r", run, "--outdir", str(tmp_path / "out"), *arguments]) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(shown) == 1 and message in shown[0]
    assert not list(tmp_path.rglob("*.png"))


def test_a_layout_with_a_slip(run, tmp_path, capsys):
    layout = tmp_path / "layout.json"
    layout.write_text(json.dumps({"objects": [HOUSE | {"class": "huose"}]}))
    arguments = ["-r", run, "--outdir", str(tmp_path / "out"), "--layout", str(layout)]
    assert run_command(make_scene_samples.main, arguments) == 2
    shown = capsys.readouterr().err
    assert "layout.json: objects[0]: class 'huose' is none of the data set's; did you mean house?" in shown
