"""scripts/convert_checkpoint.py there and back again."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from taming.checkpoint import load_checkpoint
from taming.cli import run_command

pytest.importorskip("safetensors")

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"
SPEC = importlib.util.spec_from_file_location("convert_checkpoint", SCRIPT)
convert_checkpoint = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(convert_checkpoint)


@pytest.fixture
def checkpoint(tmp_path):
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
    torch.save({"state_dict": weights, "global_step": 42, "optimizer_states": [{}]}, tmp_path / "in.ckpt")
    return tmp_path / "in.ckpt"


def convert(*arguments):
    return run_command(convert_checkpoint.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth"])
def test_there_and_back_again(checkpoint, tmp_path, suffix, capsys):
    middle, back = tmp_path / "new" / "out.safetensors", tmp_path / f"back{suffix}"
    assert convert(checkpoint, middle) == 0
    assert convert(middle, back) == 0
    assert capsys.readouterr().out.startswith(f"{middle}: 0.0 MiB\n")
    before, after = load_checkpoint(checkpoint), load_checkpoint(back)
    assert after.keys() == {"state_dict", "global_step"} and after["global_step"] == 42
    torch.testing.assert_close(dict(after["state_dict"]), dict(before["state_dict"]), rtol=0, atol=0)


def test_an_existing_file_is_kept_unless_told_otherwise(checkpoint, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    target.write_text("mine")
    assert convert(checkpoint, target) == 2
    assert capsys.readouterr().err == f"error: {target}: exists already; give --overwrite to replace it\n"
    assert target.read_text() == "mine"
    assert convert(checkpoint, target, "--overwrite") == 0
    assert load_checkpoint(target)["global_step"] == 42


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("in.ckpt", "out.onnx", "out.onnx: the suffix tells the format, it must be one of .safetensors, .ckpt"),
        ("none.ckpt", "out.safetensors", "none.ckpt: no such checkpoint file"),
        ("notes.ckpt", "out.safetensors", "notes.ckpt: truncated, or not a checkpoint"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(checkpoint, tmp_path, capsys, source, target, message):
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    assert convert(tmp_path / source, tmp_path / target) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("error: ") and message in shown and "\n" not in shown
    assert {path.name for path in tmp_path.iterdir()} == {"in.ckpt", "notes.ckpt"}


def test_without_the_package(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert convert(checkpoint, tmp_path / "out.safetensors") == 2
    assert "pip install safetensors" in capsys.readouterr().err
