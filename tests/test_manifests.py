"""The published models: built at full size without memory, they have the published weights and read published files."""

import json
import logging
from collections import Counter
from functools import cache

import parity
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint

from taming.checkpoint import load_checkpoint, load_weights
from taming.config import instantiate_from_config

pytestmark = pytest.mark.filterwarnings("ignore:.*is a no-op")  # models without memory take names and shapes only

MANIFESTS = sorted(path.stem for path in (parity.FOLDER / "manifests").glob("*.json"))
STAGES = ("first_stage_model", "cond_stage_model")


@cache
def manifest(name):
    return json.loads((parity.FOLDER / "manifests" / f"{name}.json").read_text())


@cache
def build(name):
    with torch.device("meta"):
        return instantiate_from_config(manifest(name)["config"])


def is_mask(key):
    return key.endswith("attn.mask")


def empty_tensor(text):
    """A tensor of the described type and shape that has memory for one element only: `float32[2, 3]`."""
    dtype, _, shape = text.partition("[")
    return torch.zeros((), dtype=getattr(torch, dtype)).expand(json.loads(f"[{shape}"))


def lightning_1_0_checkpoint(name):
    """A file's content with all the published keys and what Lightning 1.0 saves beside them."""
    weights = {key: empty_tensor(text) for key, text in manifest(name)["state_dict"].items()}
    moments = {
        index: {"step": 7, "exp_avg": weight, "exp_avg_sq": weight} for index, weight in enumerate(weights.values())
    }
    group = {"lr": 4.5e-6, "betas": (0.5, 0.9), "eps": 1e-8, "weight_decay": 0, "params": list(moments)}
    return {
        "state_dict": weights,
        "global_step": 1234,
        "epoch": 5,
        "pytorch-lightning_version": "1.0.8",
        "optimizer_states": [{"state": moments, "param_groups": [group]}],
        "lr_schedulers": [{"last_epoch": 5, "_step_count": 6, "_last_lr": [4.5e-6]}],
        "callbacks": {
            ModelCheckpoint: {
                "best_model_score": torch.tensor(0.5),
                "best_model_path": "checkpoints/epoch=000005.ckpt",
            },
            LearningRateMonitor: {},
        },
        "hparams_name": "kwargs",
        "hyper_parameters": OmegaConf.create(manifest(name)["config"]["params"]),
    }


@pytest.fixture
def checkpoint(request, tmp_path):
    """A published checkpoint: all names, types and shapes, but no weights."""
    path = tmp_path / "last.ckpt"
    torch.save(lightning_1_0_checkpoint(request.param), path)
    assert path.stat().st_size < 3e6
    return request.param, load_checkpoint(path)


def test_all_published_models_are_here():
    assert len(MANIFESTS) == 13


@pytest.mark.parametrize("name", MANIFESTS)
def test_weights_have_the_published_names_types_and_shapes(name):
    published = {key: text for key, text in manifest(name)["state_dict"].items() if not is_mask(key)}
    model = build(name)
    assert {key: parity.describe(value) for key, value in model.state_dict().items()} == published
    buffers = {key for key, _ in model.named_buffers() if key in published}
    assert buffers == {key for key in manifest(name)["buffers"] if not is_mask(key)}


@pytest.mark.parametrize("name", MANIFESTS)
def test_parameters_are_as_many_as_published(name):
    model, published = build(name), manifest(name)
    counts, trainable = Counter(), 0
    parts = published["parameters_by_part"]
    for key, parameter in model.named_parameters():
        counts[next((part for part in parts if key.startswith(f"{part}.")), key)] += parameter.numel()
        trainable += parameter.numel() * parameter.requires_grad
    assert counts == parts
    assert sum(counts.values()) == published["parameters"]
    frozen = sum(parts.get(stage, 0) for stage in STAGES)  # by the class, in the original only by its optimizer
    assert trainable == published["trainable_parameters (requires_grad)"] - frozen


@pytest.mark.parametrize("checkpoint", MANIFESTS, indirect=True)
def test_published_files_load_strictly(checkpoint, caplog):
    name, content = checkpoint
    assert (content["global_step"], content["epoch"]) == (1234, 5)
    assert next(iter(content["callbacks"])) == "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
    assert content["hyper_parameters"] == manifest(name)["config"]["params"]
    assert len(content["state_dict"]) == manifest(name)["state_dict_entries"]
    assert sum(tensor.numel() for tensor in content["state_dict"].values()) == manifest(name)["state_dict_elements"]
    model = build(name)
    assert str(model.load_state_dict(content["state_dict"], strict=True)) == "<All keys matched successfully>"
    with caplog.at_level(logging.INFO, logger="taming"):
        assert load_weights(model, content["state_dict"], strict=True) == ([], [])
    assert not caplog.records
