"""Checkpoints: what is read, what is refused, that files are whole, and what does not fit is said."""

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
from PIL import Image
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

from taming.checkpoint import (
    CheckpointError,
    SafeCheckpointIO,
    export_safetensors,
    load_checkpoint,
    save_checkpoint_atomic,
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
    ("content", "problem"),
    [
        ([1, 2], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({"a": 1}, "no state_dict"),
        ({}, "no state_dict"),
        ({"state_dict": 3}, "its state_dict is no mapping of names to tensors"),
        ({"state_dict": {"a": 3}}, "its state_dict is no mapping of names to tensors"),
        ({"state_dict": {1: WEIGHTS["weight"]}}, "its state_dict is no mapping of names to tensors"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, problem):
    with pytest.raises(CheckpointError, match=problem) as error:
        load_checkpoint(saved(tmp_path / "other.ckpt", content))
    assert "\n" not in str(error.value)


def test_a_state_that_is_no_tensor(tmp_path):
    weights = {**WEIGHTS, "loss._extra_state": {"step": 3}}
    assert (
        load_checkpoint(saved(tmp_path / "extra.ckpt", {"state_dict": weights}))["state_dict"].keys() == weights.keys()
    )


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_files_of_other_programs(tmp_path, suffix):
    path = tmp_path / f"other{suffix}"
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    np.savez(tmp_path / "arrays.npz", a=np.ones(3))
    texts = ["hello\n", "model:\n  target: x\n", "0" * 999]
    for content in [
        (tmp_path / "picture.png").read_bytes(),
        (tmp_path / "arrays.npz").read_bytes(),
        *map(str.encode, texts),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint(path)
        assert str(error.value) == f"{path}: truncated, or not a checkpoint ({len(content)} bytes)"


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


def test_names_and_shapes_without_the_weights(tmp_path):
    path = saved(tmp_path / "a.ckpt", {"state_dict": WEIGHTS})
    weight = load_checkpoint(path, "meta")["state_dict"]["weight"]
    assert (weight.device.type, weight.shape) == ("meta", (3,))


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(WEIGHTS, path)
    checkpoint = load_checkpoint(path)
    assert torch.equal(checkpoint["state_dict"]["weight"], WEIGHTS["weight"])
    assert checkpoint.keys() == {"state_dict", "global_step"} and checkpoint["global_step"] == 0
    assert load_checkpoint(path, "meta")["state_dict"]["weight"].device.type == "meta"
    whole = path.read_bytes()
    for content in [b"", b"\x00" * 4, whole[:40], whole[:-4]]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="truncated"):
            load_checkpoint(path)


def test_safetensors_of_tensors_that_share_memory(tmp_path):
    pytest.importorskip("safetensors")
    base = torch.arange(12.0).reshape(3, 4)
    weights = {"a": base, "b": base, "row": base[1], "column": base[:, 1], "turned": torch.arange(6.0).reshape(2, 3).T}
    weights |= {"one value": torch.ones(()).expand(2, 2), "empty": torch.ones(0), "half": torch.ones(2).bfloat16()}
    source = saved(tmp_path / "a.ckpt", {"state_dict": weights, "global_step": 42, "optimizer_states": [1]})
    config = OmegaConf.create({"model": {"target": "x", "params": {"sizes": [1, 2]}}})
    for form in (config, OmegaConf.to_container(config)):
        export_safetensors(source, tmp_path / "out" / "a.safetensors", config=form)
        checkpoint = load_checkpoint(tmp_path / "out" / "a.safetensors")
        assert checkpoint["global_step"] == 42
        assert OmegaConf.create(checkpoint["config"]) == config
        assert checkpoint["state_dict"].keys() == weights.keys()
        assert all(torch.equal(checkpoint["state_dict"][key], value) for key, value in weights.items())
    assert os.listdir(tmp_path / "out") == ["a.safetensors"]


def test_a_failed_export_leaves_the_old_file(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")

    def full_disk(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left")

    source, target = saved(tmp_path / "a.ckpt", {"state_dict": WEIGHTS}), tmp_path / "a.safetensors"
    target.write_bytes(b"before")
    monkeypatch.setattr(safetensors, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export_safetensors(source, target)
    assert target.read_bytes() == b"before" and len(os.listdir(tmp_path)) == 2


def test_what_safetensors_cannot_hold(tmp_path):
    pytest.importorskip("safetensors")
    source = saved(tmp_path / "a.ckpt", {"state_dict": {**WEIGHTS, "loss._extra_state": {"step": 3}}})
    with pytest.raises(CheckpointError, match=r"a.ckpt: loss._extra_state is no tensor"):
        export_safetensors(source, tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == ["a.ckpt"]


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
