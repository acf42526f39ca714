"""scripts/sample_fast.py from a run folder to files."""

import errno
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_configs import first_stage
from tiny_transformers import same

from taming.cli import run_command
from taming.config import instantiate_from_config
from taming.sampling import writers

SCRIPT = Path(__file__).parents[2] / "scripts" / "sample_fast.py"
SPEC = importlib.util.spec_from_file_location("sample_fast", SCRIPT)
sample_fast = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sample_fast)

CONFIG = {
    "target": "taming.models.cond_transformer.Net2NetTransformer",
    "params": {
        "transformer_config": {
            "target": "taming.modules.transformer.mingpt.GPT",
            "params": {"vocab_size": 8, "block_size": 4, "n_layer": 1, "n_head": 1, "n_embd": 8},
        },
        "first_stage_config": first_stage(resolution=4, n_embed=8, ckpt_path="the/first/stage/is/long/gone.ckpt"),
        "cond_stage_config": {"target": "taming.modules.util.Labelator", "params": {"n_classes": 3}},
    },
}


def save_run(logdir, *changes):
    """A run folder as training leaves it, at global step 42."""
    config = OmegaConf.merge({"model": CONFIG}, OmegaConf.from_dotlist(list(changes)))
    (logdir / "configs").mkdir(parents=True)
    (logdir / "checkpoints").mkdir()
    OmegaConf.save(config, logdir / "configs" / "2021-project.yaml")
    config.model.params.first_stage_config.params.ckpt_path = None
    torch.manual_seed(0)
    state_dict = instantiate_from_config(config.model).state_dict()
    torch.save({"state_dict": state_dict, "global_step": 42}, logdir / "checkpoints" / "last.ckpt")
    return str(logdir)


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "any folder")


def pngs(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_classes_to_folders(run, tmp_path, capsys):
    sample_fast.main(["-r", run, "-n", "2", "-k", "6", "-p", "0.92", "--classes", "0,2,", "--seed", "5"])
    folder = tmp_path / "any folder" / "samples" / "top_k_6_temp_1.00_top_p_0.92" / "42"
    assert set(pngs(folder)) == {f"{label}/{name}.png" for label in (0, 2) for name in ("000000", "000001")}
    recorded = json.loads((folder / "sampling.json").read_text())
    assert (recorded["run"], recorded["seed"], recorded["top_k"]) == ("any folder", 5, 6)
    shown = capsys.readouterr().out
    assert "class-conditional: 2 classes x 2 samples, 4 in all; seed 5" in shown and str(folder) in shown


def test_a_rerun_makes_what_is_missing(run, tmp_path, capsys):
    arguments = ["-r", run, "-n", "3", "--batch_size", "2"]
    sample_fast.main(arguments)
    folder = tmp_path / "any folder" / "samples" / "top_k_250_temp_1.00_top_p_1.0" / "42"
    before = pngs(folder)
    (folder / "1" / "000002.png").unlink()
    capsys.readouterr()
    sample_fast.main(arguments)
    assert same(pngs(folder), before) and len(before) == 9
    assert "9 in all, 8 of them finished" in capsys.readouterr().out


def test_unconditional_to_another_folder(tmp_path, capsys):
    run = save_run(tmp_path / "run", "model.params.cond_stage_config=__is_unconditional__")
    other = tmp_path / "other"
    sample_fast.main(["-r", run, "-o", str(other), "-n", "3", "--precision", "bf16", "--top_k", "0"])
    assert set(pngs(other / "samples" / "top_k_0_temp_1.00_top_p_1.0" / "42")) == {f"00000{i}.png" for i in range(3)}
    assert not (tmp_path / "run" / "samples").exists()
    shown = capsys.readouterr().out
    assert "unconditional: 3 samples, 3 in all" in shown and f"samples go to {other} instead of {run}" in shown


def test_overrides_and_sizes(run, tmp_path):
    smaller = ["--z_height", "1", "--z_width", "2", "--steps", "2"]
    sample_fast.main(["-r", run, "-n", "1", *smaller, "model.params.cond_stage_config.params.n_classes=2"])
    assert len(pngs(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--classes", "1,3"], ["classes: 3 is out of range", "from 0 to 2"]),
        (["--steps", "256"], ["steps=256", "2 x 2"]),
        (["--z_height", "3"], ["3 x 2 does not fit into block_size 4", "make_samples.py samples larger grids"]),
        (["--guidance_scale", "2"], ["guidance_scale=2.0: this model has no null_token"]),
        (["-p", "0"], ["top_p must lie in (0, 1], not 0.0"]),
        (["--device", "tpu"], ["--device tpu"]),
        (["--topk", "3"], ["--topk", "did you mean --top_k"]),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, parts):
    assert run_command(sample_fast.main, ["-r", run, "-n", "1", *arguments]) == 2
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("error: ") and "\n" not in shown and all(part in shown for part in parts)
    assert not list(tmp_path.rglob("samples"))


def test_two_processes_of_torchrun_make_the_files_of_one(run, tmp_path, monkeypatch, capsys):
    arguments = ["-r", run, "-n", "3", "--seed", "1", "-k", "1,4"]
    sample_fast.main([*arguments, "-o", str(tmp_path / "alone")])
    monkeypatch.setenv("WORLD_SIZE", "2")
    capsys.readouterr()
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        sample_fast.main([*arguments, "-o", str(tmp_path / "together")])
        shown = capsys.readouterr().out
        assert ("part 0 of 2 makes 5" in shown) == (rank == "0") and bool(shown) == (rank == "0")
    assert same(pngs(tmp_path / "together"), pngs(tmp_path / "alone"))


def test_shards_by_hand_and_an_archive(run, tmp_path, capsys):
    arguments = ["-r", run, "-n", "2", "--seed", "1", "--npz", str(tmp_path / "all.npz")]
    sample_fast.main([*arguments, "--shard", "0/2"])
    assert not (tmp_path / "all.npz").exists()
    sample_fast.main([*arguments, "--shard", "1/2"])
    assert f"all images are in {tmp_path / 'all.npz'}" in capsys.readouterr().out
    with np.load(tmp_path / "all.npz") as archive:
        assert archive["arr_0"].shape == (6, 4, 4, 3) and archive["arr_1"].tolist() == [0, 0, 1, 1, 2, 2]


def brightest(images, labels):
    return images.mean(dim=(1, 2, 3))


def test_the_best_candidates_by_a_function_of_ones_own(run, tmp_path, capsys):
    arguments = ["-r", run, "-n", "2", "--classes", "1", "--acceptance_rate", "0.5"]
    sample_fast.main([*arguments, "--classifier", f"{__name__}.brightest"])
    folder = tmp_path / "any folder" / "samples" / "top_k_250_temp_1.00_top_p_1.0" / "42"
    assert set(pngs(folder)) == {"1/000000.png", "1/000001.png"}
    recorded = json.loads((folder / "sampling.json").read_text())
    assert recorded["classifier"] == "brightest" and len(recorded["scores"]["1"]["index"]) == 2
    assert "1 classes x 2 samples, the best of 4, 2 in all" in capsys.readouterr().out


def test_guidance(tmp_path):
    run = save_run(tmp_path / "run", "model.params.transformer_config.params.vocab_size=9", "model.params.null_token=8")
    sample_fast.main(["-r", run, "-n", "1", "--guidance_scale", "2"])
    folder = tmp_path / "run" / "samples" / "top_k_250_temp_1.00_top_p_1.0_guidance_2.0" / "42"
    assert len(pngs(folder)) == 3


def test_a_full_disk_is_one_line(run, capsys, monkeypatch):
    def full(path, image):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writers, "save_png", full)
    assert run_command(sample_fast.main, ["-r", run, "-n", "1"]) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(shown) == 1 and "the disk is full; what is finished stays there" in shown[0]


def test_a_first_stage_alone_is_no_sampler(tmp_path, capsys):
    run = save_run(tmp_path / "run")
    stage = json.dumps(first_stage(resolution=4, n_embed=8))
    OmegaConf.save({"model": json.loads(stage)}, tmp_path / "run" / "configs" / "2021-project.yaml")
    torch.save(instantiate_from_config(json.loads(stage)).state_dict(), tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert run_command(sample_fast.main, ["-r", run]) == 2
    assert "this run is a VQModel, which has no transformer to sample from" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--classes", "0,7"],
        ["-t", "0"],
        ["-p", "0"],
        ["-n", "0"],
        ["-k", "many"],
        ["--acceptance_rate", "2"],
        ["--guidance_scale", "nan"],
        ["--shard", "3/2"],
        ["--shard", "one"],
        ["--npz", "nowhere/all.npz"],
        ["--batch_size", "0"],
        ["--seed", "-1"],
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(run, capsys, monkeypatch, arguments):
    monkeypatch.setattr(sample_fast, "build_model", None)
    assert run_command(sample_fast.main, ["-r", run, *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")


def test_it_runs_from_anywhere_without_an_installation(tmp_path):
    command = [sys.executable, str(SCRIPT), "-r", "nothing/here"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.strip() == "error: nothing/here: no such run folder or checkpoint file"
