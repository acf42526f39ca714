"""scripts/make_reconstructions.py and scripts/evaluate.py, from a run folder to figures."""

import importlib.util
import json
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_configs import first_stage
from tiny_run_folders import save_run
from torch.utils.data import Dataset

from taming.cli import run_command
from taming.models.dvae import DVAE
from taming.modules.losses.lpips import LPIPS

SCRIPTS = Path(__file__).parents[2] / "scripts"
needs_fidelity = pytest.mark.skipif(
    find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed: pip install -e '.[eval]'"
)


def script(name):
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_reconstructions, evaluate = script("make_reconstructions"), script("evaluate")


class Noise(Dataset):
    """`size` images (16, 16, 3)."""

    def __init__(self, size):
        self.images = torch.rand(size, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}


def noise(size):
    return {"target": f"{__name__}.Noise", "params": {"size": size}}


CONFIG = {
    "model": first_stage(resolution=16, n_embed=8),
    "data": {
        "target": "main.DataModuleFromConfig",
        "params": {"batch_size": 1, "num_workers": 0, "train": noise(2), "validation": noise(4)},
    },
}


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "run", CONFIG["model"], step=5, data=CONFIG["data"])


def pngs(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def error_of(main, arguments, capsys):
    assert run_command(main, arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_split_is_reconstructed_and_measured(run, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["-r", run, "--outdir", str(out), "--batch_size", "3"]
    make_reconstructions.main(arguments)
    assert pngs(out) == [f"{kind}/{index:06}.png" for kind in ("originals", "reconstructions") for index in range(4)]
    shown = capsys.readouterr().out
    assert "split validation: 4 images, 4 to be reconstructed by VQModel of run" in shown and "'size': 4" in shown
    assert f"evaluate.py fid --input1 {out}/reconstructions --input2 {out}/originals" in shown
    make_reconstructions.main(arguments)
    assert "4 images, 0 to be reconstructed" in capsys.readouterr().out
    evaluate.main(["reconstructions", str(out), "--no_lpips", "--json", str(tmp_path / "figures.json")])
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report["images"] == 4 and report["sampling"]["global_step"] == 5
    assert f"psnr_db: {report['metrics']['psnr_db']:.7g}" in capsys.readouterr().out
    assert 0 < report["metrics"]["codebook_usage"] <= 1


def test_equal_images_have_no_finite_psnr(run, tmp_path):
    make_reconstructions.main(["-r", run, "--outdir", str(tmp_path / "out")])
    for path in (tmp_path / "out" / "originals").iterdir():
        (tmp_path / "out" / "reconstructions" / path.name).write_bytes(path.read_bytes())
    evaluate.main(["reconstructions", str(tmp_path / "out"), "--no_lpips", "--json", str(tmp_path / "figures.json")])
    metrics = json.loads((tmp_path / "figures.json").read_text())["metrics"]
    assert metrics["psnr_db"] is None and metrics["ssim"] == pytest.approx(1.0)


def test_other_data_and_another_split(run, tmp_path):
    data = f"data={{target: main.DataModuleFromConfig, params: {{batch_size: 1, test: {json.dumps(noise(1))}}}}}"
    more = ["--ignore_base_data", data, "--split", "test"]
    make_reconstructions.main(["-r", run, "--outdir", str(tmp_path / "a"), *more])
    make_reconstructions.main(["-r", run, "--outdir", str(tmp_path / "b"), "--split", "train", "--num_samples", "1"])
    assert len(pngs(tmp_path / "a")) == len(pngs(tmp_path / "b")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "split 'test': the config has data for train, validation"),
        (["--dalle", "weights"], "give either a run with -r/--resume or the folder of OpenAI's dVAE"),
        (["--num_samples", "0"], "num_samples must be positive"),
        (["--batch_size", "0"], "batch_size=0"),
        (["--device", "tpu"], "--device tpu"),
        (["--slit", "test"], "did you mean --split"),
        (["model.params.image_key=depth"], "the model reads 'depth'"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capsys, arguments, message):
    line = error_of(make_reconstructions.main, ["-r", run, "--outdir", str(tmp_path / "out"), *arguments], capsys)
    assert message in line


def test_openais_dvae_needs_its_files_and_data(run, tmp_path, capsys, monkeypatch):
    small = {"n_hid": 4, "n_init": 6, "n_blk_per_group": 1, "vocab_size": 11}
    monkeypatch.setattr(make_reconstructions, "DVAE", partial(DVAE, **small))
    arguments = ["--dalle", str(tmp_path), "--outdir", str(tmp_path / "out")]
    assert "no config: name a run with -r, or configs with -b" in error_of(make_reconstructions.main, arguments, capsys)
    config = str(Path(run, "configs", "2021-project.yaml"))
    assert "encoder.pkl" in error_of(make_reconstructions.main, [*arguments, "-b", config], capsys)


@needs_fidelity
def test_fid_of_folders(run, tmp_path, capsys):
    out, cache = tmp_path / "out", str(tmp_path / "cache")
    make_reconstructions.main(["-r", run, "--outdir", str(out)])
    common = ["fid", "--input1", str(out / "reconstructions"), "--features", "tiny_features.TinyFeatures"]
    common += ["--cache_root", cache, "--save_cpu_ram", "--device", "cpu"]
    more = ["--kid", "--kid_subset_size", "3", "--name", "noise", "--json", str(tmp_path / "fid.json")]
    evaluate.main([*common, "--input2", str(out / "originals"), *more])
    report = json.loads((tmp_path / "fid.json").read_text())
    assert report["sampling"]["run"] == "run" and report["input1"]["images"] == 4
    shown = capsys.readouterr().out
    assert "preprocessing: images as they are" in shown
    assert f"frechet_inception_distance: {report['metrics']['frechet_inception_distance']:.7g}" in shown
    evaluate.main([*common, "--input2", "noise"])
    again = capsys.readouterr().out.splitlines()
    assert next(line for line in again if line.startswith("frechet")) in shown
    assert "poise: neither a folder nor a name" in error_of(evaluate.main, [*common, "--input2", "poise"], capsys)


def test_reference_images_are_prepared(image_folder, tmp_path, capsys):
    command = ["prepare", "--source", str(image_folder), "--out", str(tmp_path / "reference"), "--size", "24"]
    evaluate.main(command)
    assert "reference: 12 images of 24x24, center-bilinear" in capsys.readouterr().out
    assert Image.open(tmp_path / "reference" / "left" / "0.png").size == (24, 24)
    assert "size=24, not 32" in error_of(evaluate.main, [*command[:-1], "32"], capsys)


def test_mistakes_in_evaluating(tmp_path, capsys, monkeypatch):
    def missing():
        raise FileNotFoundError("VGG-16 is not there")

    monkeypatch.setattr(LPIPS, "from_pretrained", missing)
    line = error_of(evaluate.main, ["reconstructions", str(tmp_path)], capsys)
    assert "no originals and reconstructions in this folder" in line
    for folder in ("originals", "reconstructions"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "0.png")
    line = error_of(evaluate.main, ["reconstructions", str(tmp_path)], capsys)
    assert "VGG-16 is not there; or leave LPIPS out by --no_lpips" in line
    line = error_of(evaluate.main, ["fid", "--input1", str(tmp_path / "gone"), "--input2", str(tmp_path)], capsys)
    assert "gone: no such folder of images" in line
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    line = error_of(evaluate.main, ["fid", "--input1", str(tmp_path), "--input2", str(tmp_path)], capsys)
    assert "pip install 'taming-transformers[eval]'" in line


@pytest.mark.parametrize("command", ["fid", "prepare", "reconstructions"])
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        evaluate.main([command, "--help"])
    assert "default: " in capsys.readouterr().out and "--split" in make_reconstructions.get_parser().format_help()
