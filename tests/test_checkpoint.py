"""Checkpoints: what is read, what is refused, that files are whole, and what does not fit is said."""

import logging
import os
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from taming.checkpoint import (
    CheckpointError,
    SafeCheckpointIO,
    load_checkpoint,
    load_weights,
    save_checkpoint_atomic,
    summary,
)

WEIGHTS = {"weight": torch.arange(3.0)}


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


class Foreign:
    """Not among what a checkpoint may hold."""


class Payload:
    """Would make a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_callbacks_of_lightning_before_1_5_get_their_names_as_keys(tmp_path):
    callbacks = {ModelCheckpoint: {"best_model_score": np.float64(0.5)}, EarlyStopping: {"wait_count": 2}}
    path = saved(tmp_path / "old.ckpt", {"state_dict": WEIGHTS, "global_step": 7, "callbacks": callbacks})
    checkpoint = load_checkpoint(path)
    assert checkpoint["callbacks"] == {
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": {"best_model_score": 0.5},
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping": {"wait_count": 2},
    }
    assert checkpoint["global_step"] == 7
    assert torch.equal(checkpoint["state_dict"]["weight"], WEIGHTS["weight"])


def test_hyperparameters_become_plain_data(tmp_path, monkeypatch):
    config = OmegaConf.create({"a": {"b": [1, 2.5, "x", None, True]}, "c": "${a.b}"})
    attributes = type("AttributeDict", (dict,), {"__module__": "pytorch_lightning.utilities.parsing"})
    monkeypatch.setattr("pytorch_lightning.utilities.parsing.AttributeDict", attributes)
    content = {"state_dict": WEIGHTS, "hyper_parameters": attributes(config=config), "hparams_type": type(config)}
    checkpoint = load_checkpoint(saved(tmp_path / "hparams.ckpt", content))
    assert checkpoint["hyper_parameters"] == {"config": {"a": {"b": [1, 2.5, "x", None, True]}, "c": "${a.b}"}}
    assert type(checkpoint["hyper_parameters"]["config"]["a"]) is dict


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_scalars_of_old_and_new_numpy(tmp_path, module):
    path = saved(
        tmp_path / "scalar.ckpt",
        {"state_dict": WEIGHTS, "score": np.float32(1.5)},
        _use_new_zipfile_serialization=False,
    )
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))
    score = load_checkpoint(path)["score"]
    assert (score, type(score)) == (1.5, float)


def test_foreign_objects_are_refused_by_name(tmp_path):
    path = saved(tmp_path / "foreign.ckpt", {"state_dict": WEIGHTS, "extra": Foreign()})
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert f"{path}: refused" in str(error.value)
    assert f"{Foreign.__module__}.Foreign" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_payloads_do_not_run(tmp_path, zipped):
    target = tmp_path / "made by a payload"
    content = {"state_dict": WEIGHTS, "callbacks": {"x": Payload(target)}}
    path = saved(tmp_path / "payload.ckpt", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused, it holds an object of .*open"):
        load_checkpoint(path)
    assert not target.exists()


def test_stand_ins_are_allowed_for_one_reading_only(tmp_path):
    path = saved(tmp_path / "old.ckpt", {"state_dict": WEIGHTS, "callbacks": {ModelCheckpoint: {}}})
    load_checkpoint(path)
    with pytest.raises(Exception, match="ModelCheckpoint"):
        torch.load(path, weights_only=True)


def test_bare_weights_and_missing_step(tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "bare.pt", OrderedDict(WEIGHTS)))
    assert checkpoint["state_dict"].keys() == {"weight"}
    assert checkpoint["global_step"] == 0
    assert load_checkpoint(saved(tmp_path / "sub.ckpt", {"state_dict": WEIGHTS}))["global_step"] == 0


@pytest.mark.parametrize(
    ("content", "problem"), [([1, 2], "holds a list"), ({"a": 1}, "no state_dict"), ({}, "no state_dict")]
)
def test_files_that_hold_something_else(tmp_path, content, problem):
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(saved(tmp_path / "other.ckpt", content))


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(tmp_path, zipped):
    path = saved(tmp_path / "whole.ckpt", {"state_dict": WEIGHTS}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for content in [b"", b"<!DOCTYPE html><html></html>", b"version https://git-lfs", whole[:20], whole[:-4]]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        assert str(error.value) == f"{path}: truncated, or not a checkpoint ({len(content)} bytes)"


@given(st.integers(0), st.integers(0, 255), st.integers(0))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_a_checkpoint_error(tmp_path, place, byte, length):
    path = saved(tmp_path / "damaged.ckpt", {"state_dict": WEIGHTS}, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content[: length % len(content)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{path}: no such checkpoint file"):
            load_checkpoint(path)


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "model.safetensors")["state_dict"]["weight"], WEIGHTS["weight"])
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(tmp_path / "damaged.safetensors")


def test_safetensors_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pip install safetensors"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_what_is_written_needs_no_trust(tmp_path):
    content = {
        "state_dict": WEIGHTS,
        "hyper_parameters": {"config": OmegaConf.create({"a": [1]}), "path": Path("logs"), "kind": Foreign},
        "callbacks": {"x": {"score": np.float64(0.5), "best": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.5, 0.9)}]}],
    }
    path = tmp_path / "new" / "last.ckpt"
    save_checkpoint_atomic(content, path)
    read = torch.load(path, weights_only=True)
    assert read["hyper_parameters"] == {
        "config": {"a": [1]},
        "path": "logs",
        "kind": f"{Foreign.__module__}.Foreign",
    }
    assert read["callbacks"]["x"]["score"] == 0.5
    assert read["optimizer_states"] == content["optimizer_states"]
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = saved(tmp_path / "last.ckpt", {"state_dict": WEIGHTS})
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint_atomic({"state_dict": WEIGHTS, "hook": lambda: None}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(folder, *, max_steps, ckpt_path=None):
    model = Regression()
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=max_steps,
        accelerator="cpu",
        plugins=[SafeCheckpointIO()],
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=2)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(torch.ones(4, 1)), ckpt_path=ckpt_path, weights_only=True)
    return trainer, model


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_continues_its_own_and_lightning_1_0_checkpoints(tmp_path):
    _, straight = fit(tmp_path / "straight", max_steps=4)
    checkpoint = torch.load(tmp_path / "straight" / "step=2.ckpt", weights_only=True)
    path = tmp_path / "straight" / "step=2.ckpt"
    trainer, resumed = fit(tmp_path / "resumed", max_steps=4, ckpt_path=path)
    assert trainer.global_step == 4
    assert torch.equal(resumed.layer.weight, straight.layer.weight)

    keys = ("state_dict", "global_step", "epoch", "optimizer_states", "lr_schedulers")
    old = {key: checkpoint[key] for key in keys} | {
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {ModelCheckpoint: {"best_model_path": "", "best_model_score": None}},
    }
    trainer, resumed = fit(tmp_path / "old", max_steps=4, ckpt_path=saved(tmp_path / "old.ckpt", old))
    assert trainer.global_step == 4
    assert torch.equal(resumed.layer.weight, straight.layer.weight)


def test_checkpoint_io_removes_files_and_folders(tmp_path):
    path = saved(tmp_path / "a.ckpt", {})
    (tmp_path / "sharded" / "part").mkdir(parents=True)
    for _ in range(2):
        SafeCheckpointIO().remove_checkpoint(path)
    SafeCheckpointIO().remove_checkpoint(tmp_path / "sharded")
    assert not os.listdir(tmp_path)


class Tokenizer(nn.Module):
    """The names and shapes of a VQModel's weights, in small."""

    def __init__(self, ch=4, n_embed=8, in_channels=3):
        super().__init__()
        self.encoder = nn.ModuleDict({"conv_in": nn.Conv2d(in_channels, ch, 3), "mid": nn.Conv2d(ch, ch, 1)})
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(n_embed, 2)})
        self.loss = nn.Linear(1, 1)


class Stages(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first_stage_model = Tokenizer(**options)
        self.transformer = nn.ModuleDict({"head": nn.Linear(2, 8, bias=False)})


def test_weights_are_loaded_and_differences_reported(caplog):
    caplog.set_level(logging.INFO, logger="taming")
    source, target = Tokenizer(), Tokenizer()
    state = source.state_dict()
    del state["loss.bias"]
    result = load_weights(target, state | {"colorize": torch.zeros(1)}, source="a.ckpt", strict=True)
    assert torch.equal(target.encoder["mid"].weight, source.encoder["mid"].weight)
    assert (result.missing_keys, result.unexpected_keys) == (["loss.bias"], ["colorize"])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "a.ckpt: missing loss.bias; unexpected colorize")
    ]


def test_a_complete_fit_is_silent(caplog):
    caplog.set_level(logging.INFO, logger="taming")
    assert load_weights(Tokenizer(), Tokenizer().state_dict(), strict=True) == ([], [])
    assert not caplog.records


def test_strict_loading_fails_for_keys_that_matter(caplog):
    state = Stages().state_dict()
    lacking = {key: value for key, value in state.items() if not key.startswith("first_stage_model.encoder")}
    with pytest.raises(CheckpointError) as error:
        load_weights(Stages(), lacking, source="a.ckpt", strict=True)
    assert str(error.value) == "a.ckpt: does not fit the config, missing first_stage_model.encoder (4)"
    deeper = state | {"transformer.blocks.0.ln1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"unexpected transformer\.blocks"):
        load_weights(Stages(), deeper, strict=True)
    load_weights(Stages(), state | {"model_ema.decay": torch.zeros(1)}, strict=True)
    assert load_weights(Stages(), lacking).missing_keys == [key for key in state if key not in lacking]
    assert caplog.records[-1].levelname == "WARNING"


def test_strict_loading_tolerates_what_inference_does_without():
    lacking = Stages().state_dict()
    del lacking["first_stage_model.loss.weight"]
    extra = [
        "first_stage_model.colorize",
        "first_stage_model.loss.discriminator.bias",
        "transformer.blocks.0.attn.mask",
    ]
    result = load_weights(Stages(), lacking | dict.fromkeys(extra, torch.zeros(1)), strict=True)
    assert result == (["first_stage_model.loss.weight"], extra)


def test_ignored_prefixes_may_overlap():
    result = load_weights(Tokenizer(), Tokenizer().state_dict(), ignore_keys=["loss", "loss.weight", "quantize"])
    assert result.missing_keys == ["quantize.embedding.weight", "loss.weight", "loss.bias"]


@pytest.mark.parametrize(
    ("options", "stages", "message"),
    [
        (
            {"n_embed": 16},
            False,
            "quantize.embedding.weight is (8, 2) in the file, (16, 2) in the model; check n_embed of the config",
        ),
        (
            {"n_embed": 16},
            True,
            "first_stage_model.quantize.embedding.weight is (8, 2) in the file, (16, 2) in the model; "
            "check first_stage_config.params.n_embed of the config",
        ),
        (
            {"in_channels": 1},
            False,
            "encoder.conv_in.weight is (4, 3, 3, 3) in the file, (4, 1, 3, 3) in the model; "
            "check ddconfig.in_channels of the config",
        ),
        (
            {"ch": 8},
            False,
            "encoder.conv_in.weight is (4, 3, 3, 3) in the file, (8, 3, 3, 3) in the model (and 3 more); "
            "check ddconfig.ch of the config",
        ),
    ],
)
def test_weights_of_another_shape_point_to_the_config_key(options, stages, message):
    build = Stages if stages else Tokenizer
    with pytest.raises(CheckpointError) as error:
        load_weights(build(**options), build().state_dict(), source="a.ckpt")
    assert str(error.value) == f"a.ckpt: {message}"


def test_a_checkpoint_of_something_else():
    with pytest.raises(CheckpointError, match=r"holds nothing for Tokenizer, but first_stage_model.*extract_submodel"):
        load_weights(Tokenizer(), Stages().state_dict())


def test_modules_without_weights_take_any_checkpoint():
    assert load_weights(nn.Identity(), WEIGHTS).unexpected_keys == ["weight"]


def test_summary_counts_keys_by_part():
    assert summary([]) == "none"
    assert summary(["a.b.c", "a.b.d", "colorize"]) == "a.b (2), colorize"
    assert summary([f"part{i}.x.y" for i in range(9)]).endswith("part5.x, and 3 more parts")
