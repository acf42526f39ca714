"""scripts/extract_submodel.py: one part of a checkpoint becomes a checkpoint that the part's own class loads."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_configs import first_stage

from taming.cli import run_command
from taming.config import instantiate_from_config

SCRIPT = Path(__file__).parents[2] / "scripts" / "extract_submodel.py"


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("extract_submodel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def whole(tmp_path):
    """A checkpoint with a first stage, a part of similar name, and a conditioning stage that is itself nested."""
    stage = instantiate_from_config(first_stage(resolution=16, n_embed=8))
    weights = {f"first_stage_model.{key}": value for key, value in stage.state_dict().items()}
    weights |= {"first_stage_model_ema.x": torch.ones(1), "cond_stage_model.net.0.weight": torch.ones(2)}
    torch.save({"state_dict": weights, "global_step": 7, "optimizer_states": [1]}, tmp_path / "whole.ckpt")
    return stage, str(tmp_path / "whole.ckpt"), str(tmp_path / "part.ckpt")


def test_the_part_loads_as_itself(command, whole):
    stage, source, target = whole
    assert run_command(command, [source, target, "first_stage_model"]) == 0
    content = torch.load(target, weights_only=True)
    assert content.keys() == {"state_dict", "global_step"} and content["global_step"] == 7
    restored = instantiate_from_config(first_stage(resolution=16, n_embed=8, ckpt_path=target))
    assert all(torch.equal(value, restored.state_dict()[key]) for key, value in stage.state_dict().items())


@pytest.mark.parametrize(("part", "key"), [((), "net.0.weight"), (("cond_stage_model.net",), "0.weight")])
def test_the_default_part_and_dotted_names(command, whole, part, key):
    _, source, target = whole
    assert run_command(command, [source, target, *part]) == 0
    assert torch.load(target, weights_only=True)["state_dict"].keys() == {key}


def test_mistakes_are_one_line_and_write_nothing(command, whole, capsys):
    _, source, target = whole
    assert run_command(command, [source, target, "transformer"]) == 2
    message = capsys.readouterr().err
    assert "holds no part transformer; there are first_stage_model, first_stage_model_ema, cond_stage_model" in message
    assert not Path(target).exists()
    Path(target).write_bytes(b"precious")
    assert run_command(command, [source, target]) == 2
    assert "--overwrite" in capsys.readouterr().err and Path(target).read_bytes() == b"precious"
    assert run_command(command, [source, target, "--overwrite"]) == 0
