"""scripts/make_samples.py from a run folder and data to files."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny_configs import first_stage
from tiny_run_folders import save_run
from torch.utils.data import Dataset

from taming.cli import run_command

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_samples.py"
SPEC = importlib.util.spec_from_file_location("make_samples", SCRIPT)
make_samples = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_samples)


class Pairs(Dataset):
    """Images and depth (8, 8, 3)."""

    def __init__(self, size):
        self.images = torch.rand(size, 8, 8, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "depth": -self.images[index]}


def pairs(size):
    return {"target": f"{__name__}.Pairs", "params": {"size": size}}


CONFIG = {
    "model": {
        "target": "taming.models.cond_transformer.Net2NetTransformer",
        "params": {
            "transformer_config": {
                "target": "taming.modules.transformer.mingpt.GPT",
                "params": {"vocab_size": 8, "block_size": 32, "n_layer": 1, "n_head": 1, "n_embd": 8},
            },
            "first_stage_config": first_stage(resolution=8, n_embed=8),
            "cond_stage_config": "__is_first_stage__",
        },
    },
    "data": {
        "target": "main.DataModuleFromConfig",
        "params": {"batch_size": 1, "train": pairs(3), "validation": pairs(2)},
    },
}


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "run", CONFIG["model"], step=500000, data=CONFIG["data"])


def pngs(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_published_layout(run, tmp_path, capsys):
    make_samples.main(["-r", run, "--outdir", str(tmp_path / "out")])
    folder = tmp_path / "out" / "500000_100_1.0"
    kinds = ("originals", "reconstructions", "samples")
    assert set(pngs(folder)) == {f"{kind}/{index:06}.png" for kind in kinds for index in range(3)}
    assert json.loads((folder / "sampling.json").read_text())["run"] == "run"
    shown = capsys.readouterr().out
    assert "split train: 3 examples; seed " in shown and f"samples go to {folder}" in shown and "3 images in" in shown


def test_all_options(run, tmp_path, capsys):
    options = "--top_k 5 --temperature 0.5 --top_p 0.9 --seed 4 --split validation --num_samples 1 --batch_size 2"
    more = "--window 3 --greedy --half_sample --scale_factor 2 --save_conditioning --device cpu --shard 0/1"
    arguments = ["-r", run, "--outdir", str(tmp_path / "out"), *options.split(), *more.split()]
    make_samples.main(arguments)
    folder = tmp_path / "out" / "500000_5_0.5"
    before = pngs(folder)
    assert set(before) == {f"{kind}/000000.png" for kind in ("originals", "reconstructions", "samples", "conditioning")}
    recorded = json.loads((folder / "sampling.json").read_text())
    assert recorded["data"] == pairs(2) and recorded["split"] == "validation"
    assert [recorded[key] for key in ("top_p", "seed", "window", "greedy", "half_sample")] == [0.9, 4, 3, True, True]
    make_samples.main(arguments)
    assert "1 examples, 1 of them finished" in capsys.readouterr().out and pngs(folder) == before


def test_other_data_and_configs(run, tmp_path):
    data = f"data={{target: main.DataModuleFromConfig, params: {{batch_size: 1, test: {json.dumps(pairs(1))}}}}}"
    make_samples.main(["-r", run, "--outdir", str(tmp_path / "a"), "--ignore_base_data", data])
    assert len(pngs(tmp_path / "a")) == 3
    alone = tmp_path / "alone.yaml"
    OmegaConf.save(OmegaConf.merge(CONFIG, {"data": {"params": {"train": pairs(2)}}}), alone)
    make_samples.main(["-r", run, "--outdir", str(tmp_path / "b"), "-c", str(alone)])
    make_samples.main(["-r", run, "--outdir", str(tmp_path / "c"), "-b", str(alone), "-c"])
    assert len(pngs(tmp_path / "b")) == len(pngs(tmp_path / "c")) == 6


def test_without_a_run_the_weights_are_random_and_the_step_is_0(tmp_path, caplog):
    OmegaConf.save(CONFIG, tmp_path / "config.yaml")
    arguments = ["-b", str(tmp_path / "config.yaml"), "--outdir", str(tmp_path), "--split", "validation"]
    make_samples.main(arguments)
    assert len(pngs(tmp_path / "000000_100_1.0")) == 6 and "weights of the model are random" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "split test: the data have train, validation"),
        (["--temperature", "0"], "temperature must be positive, not 0.0"),
        (["--top_p", "1.5"], "top_p must lie in (0, 1]"),
        (["--num_samples", "0"], "num_samples must be positive"),
        (["--shard", "2/2"], "shard 2/2"),
        (["--window", "9"], "block_size 32"),
        (["--device", "tpu"], "--device tpu"),
        (["--top_q", "1"], "did you mean --top_"),
        (["data.params.train.target=Nothing"], "Nothing"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, message):
    assert run_command(make_samples.main, ["-r", run, "--outdir", str(tmp_path / "out"), *arguments]) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(shown) == 1 and message in shown[0]
    assert not (tmp_path / "out").exists(), "nothing half-made"


def test_neither_run_nor_config(tmp_path, capsys):
    assert run_command(make_samples.main, ["--outdir", str(tmp_path)]) == 2
    assert "no config: name a run with -r, or configs with -b" in capsys.readouterr().err
