"""scripts/compare_reconstructions.py from files to a picture and a table."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_configs import first_stage
from tiny_run_folders import save_run

from taming.cli import run_command

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_reconstructions.py"
SPEC = importlib.util.spec_from_file_location("compare_reconstructions", SCRIPT)
compare_reconstructions = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compare_reconstructions)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two pictures and a run folder in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "run", first_stage(resolution=16, n_embed=12))
    for name, width in (("a.png", 40), ("b.png", 32)):
        pixels = np.random.default_rng(width).integers(0, 256, (32, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return tmp_path


def test_a_picture_and_a_table(files, capsys):
    models = ["--models", "ours (f2)=run", "again=run/checkpoints/last.ckpt"]
    options = ["--size", "32", "-o", "out.png", "--dalle", "dalle", "--no_lpips", "--device", "cpu"]
    compare_reconstructions.main(["--images", "a.png", "b.png", *models, *options])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "| model | PSNR | SSIM | codes in use, % | perplexity |"
    assert shown[2].startswith("| ours (f2) | ")
    assert shown[-1] == "2 images side by side in out.png"
    assert Image.open("out.png").size == (96, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "run"], "--models run: expected TITLE=RUN"),
        (["--models", "a=run", "a=run"], "--models a=run: the title a is taken"),
        (["--models", "a=nothing"], "nothing: no such run folder or checkpoint file"),
        (["--models", "a=run", "--size", "33"], "a.png: 40 x 32 pixels are too few, the shorter side needs 33"),
        (["--models", "a=run", "--size", "31"], "a: images of 31 x 31 pixels"),
        (["--models", "a=run", "--size", "0"], "--size 0"),
        (["--models", "a=run", "-o", "no/folder/x.png"], "--output no/folder/x.png: no folder no/folder"),
        (["--models", "a=run", "--device", "tpu"], "--device tpu"),
    ],
)
def test_mistakes_are_one_line(files, capsys, arguments, message):
    defaults = ["--images", "a.png", "b.png", "--size", "32", "--no_lpips", "-o", "out.png"]
    assert run_command(compare_reconstructions.main, [*defaults, *arguments]) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(shown) == 1 and message in shown[0] and not Path("out.png").exists()
