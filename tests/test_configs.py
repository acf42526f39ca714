"""Every config that ships: its header, its model, its data, and one training and validation batch of the quick ones."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from taming.config import instantiate_from_config, load_config, validate_config
from taming.runs import without_weight_files
from taming.training import train

ROOT = Path(__file__).parent.parent
QUANTIZERS = sorted(ROOT.glob("configs/quantizers/*.yaml"))
OVERLAYS = [*QUANTIZERS, *sorted(ROOT.glob("configs/recipes/*.yaml"))]
CONFIGS = sorted(set(ROOT.glob("configs/**/*.yaml")) - set(OVERLAYS))
QUICK = sorted(ROOT.glob("configs/quickstart/*.yaml"))
NO_CHECKPOINT = "model.params.first_stage_config.params.ckpt_path=null"


def name(path):
    return str(path.relative_to(ROOT / "configs"))


def load(path):
    return without_weight_files(load_config([path]))


@pytest.mark.parametrize("path", [*CONFIGS, *OVERLAYS], ids=name)
def test_header_says_how_to_run_it_on_what_and_what_to_expect(path):
    lines = path.read_text().splitlines()
    header = " ".join(line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    base = "configs/custom_vqgan.yaml " if path in OVERLAYS else ""
    assert f"python main.py --base {base}configs/{name(path)} -t True" in header
    assert "Hardware" in header
    assert "Expect" in header or path.stem.endswith("_published")


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_is_valid_and_its_model_builds(path):
    config = load(path)
    validate_config(config)
    with torch.device("meta"):
        model = instantiate_from_config(config.model)
    model.learning_rate = 1.0
    model.configure_optimizers()
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("overlay", QUANTIZERS, ids=name)
def test_quantizers_fit_the_published_network(overlay):
    config = load_config([ROOT / "configs" / "custom_vqgan.yaml", overlay], ["model.params.ddconfig.ch=32"])
    validate_config(config)
    model = instantiate_from_config(config.model)
    assert model.quantize.n_e == config.model.params.n_embed
    assert model.quantize.e_dim == config.model.params.embed_dim


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_one_batch_with_each_overlay(overlay, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ROOT / "configs" / "quickstart" / "photos_published.yaml"
    result = train(["--base", str(base), str(overlay), "--train", "True", "--fast_dev_run", "True"])
    losses = {key: value for key, value in result.trainer.callback_metrics.items() if "loss" in key}
    assert all(torch.isfinite(value) for value in losses.values())
    assert result.trainer.callback_metrics["val/codebook_usage"] > 0


def vqgan_config(path):
    return path.with_name(path.name.replace("transformer", "vqgan"))


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "transformer" in path.stem and vqgan_config(path).exists()], ids=name
)
def test_first_stage_of_a_transformer_is_the_one_that_its_vqgan_config_trains(path):
    vqgan = OmegaConf.load(vqgan_config(path)).model
    first_stage = OmegaConf.load(path).model.params.first_stage_config
    assert first_stage.target == vqgan.target
    for key in ("ddconfig", "n_embed", "embed_dim"):
        assert first_stage.params[key] == vqgan.params[key], key
    assert OmegaConf.load(path).model.params.transformer_config.params.vocab_size >= vqgan.params.n_embed


@pytest.mark.parametrize("path", QUICK, ids=name)
def test_one_batch_of_training_and_validation(path, tmp_path, monkeypatch, image_folder):
    monkeypatch.chdir(tmp_path)
    overrides = [NO_CHECKPOINT] if "transformer" in path.stem else []
    if path.stem.startswith("folder"):
        overrides += [f"data.params.{split}.params.root={image_folder}" for split in ("train", "validation")]
    if path.stem == "folder_transformer":
        overrides += ["model.params.cond_stage_config.params.n_classes=2"]  # subfolders of image_folder
    result = train(["--base", str(path), "--train", "True", "--fast_dev_run", "True", *overrides])
    assert result.trainer.global_step == 1
    losses = {key: value for key, value in result.trainer.callback_metrics.items() if "loss" in key}
    assert {key.split("/")[0] for key in losses} == {"train", "val"}
    assert all(torch.isfinite(value) for value in losses.values())
