"""scripts/clip_guided.py with a small random model of open_clip."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tiny_clip import register
from tiny_configs import first_stage

from taming.cli import run_command
from taming.config import instantiate_from_config

pytest.importorskip("open_clip", reason="open_clip_torch is not installed: pip install -e '.[clip]'")

SCRIPT = Path(__file__).parents[2] / "scripts" / "clip_guided.py"
SPEC = importlib.util.spec_from_file_location("script_clip_guided", SCRIPT)
clip_guided = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(clip_guided)


@pytest.fixture
def run(tmp_path):
    """Config and checkpoint of a VQGAN, in a run folder."""
    config = {"model": first_stage(resolution=16, n_embed=8)}
    logdir = tmp_path / "run"
    (logdir / "configs").mkdir(parents=True)
    (logdir / "checkpoints").mkdir()
    OmegaConf.save(config, logdir / "configs" / "2021-project.yaml")
    torch.manual_seed(0)
    state_dict = instantiate_from_config(OmegaConf.create(config["model"])).state_dict()
    torch.save({"state_dict": state_dict}, logdir / "checkpoints" / "last.ckpt")
    return logdir


@pytest.fixture
def tiny_open_clip(tmp_path):
    return register(tmp_path)


@pytest.fixture
def arguments(tmp_path, tiny_open_clip, run):
    """Few steps of a small picture; the output is tmp_path/sea.png."""
    small = "-s 33 24 -cuts 3 -i 3 -se 2 -sd 5 --clip_pretrained none --device cpu"
    return ["-r", str(run), "-p", "a calm sea", "-m", tiny_open_clip, "-o", str(tmp_path / "sea.png"), *small.split()]


def test_a_picture_that_the_seed_repeats(arguments, tmp_path, run, capsys):
    torch.manual_seed(1)  # the weights of CLIP are random
    clip_guided.main(arguments)
    assert "seed 5, tiny-clip/none, to " in capsys.readouterr().out
    image = Image.open(tmp_path / "sea.png")
    assert image.size == (32, 24) and image.text["prompts"] == "a calm sea" and image.text["seed"] == "5"
    assert image.text["clip_model"] == "tiny-clip" and image.text["iteration"] == "3"
    content = (tmp_path / "sea.png").read_bytes()
    torch.manual_seed(1)
    clip_guided.main(arguments)
    assert (tmp_path / "sea.png").read_bytes() == content
    files = ["-conf", str(run / "configs" / "2021-project.yaml"), "-ckpt", str(run / "checkpoints" / "last.ckpt")]
    torch.manual_seed(1)
    clip_guided.main([*files, *arguments[2:]])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sea.png")), np.asarray(image))


def test_help():
    assert all(name in clip_guided.get_parser().format_help() for name in ("--change_prompt_every", "-nps", "--steps"))


def test_without_a_seed_it_is_printed(arguments, tmp_path, capsys):
    place = arguments.index("-sd")
    clip_guided.main(arguments[:place] + arguments[place + 2 :])
    printed = capsys.readouterr().out.split()[1].rstrip(",")
    assert Image.open(tmp_path / "sea.png").text["seed"] == printed


def test_ctrl_c_keeps_the_picture(arguments, tmp_path, monkeypatch):
    optimize = clip_guided.optimize

    def interrupted(*given, on_step):
        def step(state):
            on_step(state)
            if state.iteration == 1:
                raise KeyboardInterrupt

        optimize(*given, on_step=step)

    monkeypatch.setattr(clip_guided, "optimize", interrupted)
    assert run_command(clip_guided.main, arguments) == 130
    assert Image.open(tmp_path / "sea.png").text["iteration"] == "1"


def test_all_options(arguments, tmp_path, image_folder):
    pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed: pip install -e '.[clip]'")
    image = str(image_folder / "left" / "0.png")
    more = f"-ip {image}:0.5 -nps 1 2 -npw 1 -0.5 -ii {image} -iw 0.1 -lr 0.05 -opt RAdam -cutp 1.5 -aug flip noise"
    again = "-vid -vl 2 -ofps 4 -cpe 2 --precision bf16 -cd cpu --steps 4"
    clip_guided.main([*arguments, *more.split(), *again.split(), "-p", "a = b ^ c"])
    text = Image.open(tmp_path / "sea.png").text
    assert text["augments"] == '["flip", "noise"]' and text["noise_prompt_weights"] == "[1.0, -0.5]"
    assert text["iteration"] == "4" and text["prompts"] == "a = b ^ c"
    assert (tmp_path / "sea.mp4").stat().st_size > 0
    assert sorted(path.name for path in (tmp_path / "sea_steps").iterdir()) == ["0002.png", "0004.png"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-p", ""], "nothing to match"),
        (["-ckpt", "last.ckpt"], "give -conf/--vqgan_config and -ckpt/--vqgan_checkpoint together"),
        (["-r", "gone"], "gone: no such run folder"),
        (["-o", "sea.jpg"], "expected a name that ends in .png"),
        (["-vl", "0"], "must be positive"),
        (["-m", "tiny-clop"], "did you mean tiny-clip"),
        (["-ii", "gone.png"], "gone.png: no such image file"),
        (["-aug", "blur"], "augments: blur is none of flip"),
        (["--sizes", "1"], "did you mean --size"),
    ],
)
def test_mistakes_are_one_line(arguments, tmp_path, capsys, more, message):
    assert run_command(clip_guided.main, [*arguments, *more]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line and not (tmp_path / "sea.png").exists()
