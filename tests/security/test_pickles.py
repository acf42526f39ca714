"""Files that hold a pickle with a payload, at every door: it is refused in one line, and the payload does not run."""

import pickle
from collections import defaultdict

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from tiny_configs import first_stage

from taming.checkpoint import CheckpointError, SafeCheckpointIO, convert_checkpoint, load_checkpoint
from taming.config import instantiate_from_config
from taming.data._io import read_npy
from taming.data.image_cache import ImageCache
from taming.data.token_files import TokenCache, TokenMetadata, shard_path, write_metadata
from taming.evaluation.fidelity import FidelityOptions
from taming.models.dvae import read_network
from taming.modules.vqvae.quantize import VectorQuantizer2
from taming.runs import load_model, resolve_run
from taming.sampling.rejection import _load as load_candidates

WEIGHTS = {"weight": torch.arange(3.0)}


class Reduced:
    """Pickled as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


class ForeignCallback:
    """Where a historic class of Lightning is a key in old checkpoints."""


@pytest.fixture
def made(tmp_path):
    """The file that a payload would make."""
    return tmp_path / "made by a payload"


@pytest.fixture
def payload(made):
    return Reduced(open, str(made), "w")


def as_stand_in(payload):
    """Of a node of OmegaConf, which is read as an object without behaviour."""
    config = DictConfig({})
    config.__dict__["_content"] = payload
    return config


def as_numpy_object(payload):
    return Reduced(np._core.multiarray.scalar, np.dtype("O"), payload)


TRICKS = {
    "callback state": lambda payload: {"callbacks": {ModelCheckpoint: payload}},
    "callback class": lambda payload: {"callbacks": {ForeignCallback: {}}},
    "callback that is called": lambda payload: {"callbacks": {"x": Reduced(ModelCheckpoint, payload)}},
    "hyperparameters": lambda payload: {"hyper_parameters": as_stand_in(payload)},
    "factory of a dictionary": lambda payload: {"extra": defaultdict(exec, {"a": payload})},
    "object as a number of numpy": lambda payload: {"global_step": as_numpy_object(payload)},
    "function among the weights": lambda payload: {"state_dict": {"weight": Reduced(getattr, payload, "close")}},
    "torch that loads": lambda payload: {"extra": Reduced(torch.hub.load, "owner/name", "model")},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_in_a_checkpoint(tmp_path, payload, made, trick, zipped):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": WEIGHTS, **TRICKS[trick](payload)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not made.exists()


def run_folder(path, content):
    folder = path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder


def token_folder(path, content):
    sizes = {"examples": 2, "views": 1, "shard_size": 2, "vocabulary": 8, "image_tokens": 4, "cond_tokens": 1}
    words = dict.fromkeys(("split", "precision", "tokenizer", "command"), "x")
    shapes = {"latent_shape": [4, 2, 2], "cond_shape": [1], "seed": 0}
    write_metadata(path / "codes", TokenMetadata(**sizes, **words, **shapes, data={}, model={}, versions={}))
    for kind in ("image", "cond"):
        np.save(shard_path(path / "codes", 0, kind), np.array([content]), allow_pickle=True)
    return path / "codes"


def numpy_file(path, content):
    np.save(path / "array.npy", np.array([content]), allow_pickle=True)
    return path / "array.npy"


def candidates(path, content):
    np.savez(path / "block.npz", index=np.array([content]), score=np.zeros(1), tokens=np.zeros((1, 4)))
    return path / "block.npz"


def pickled(path, content):
    (path / "pickle.pt").write_bytes(pickle.dumps(content))
    return path / "pickle.pt"


def checkpoint(path, content):
    torch.save({"state_dict": WEIGHTS, "extra": content}, path / "any.ckpt")
    return path / "any.ckpt"


DOORS = {
    "run folder": (run_folder, lambda path: load_model(resolve_run(path))),
    "trainer": (checkpoint, lambda path: SafeCheckpointIO().load_checkpoint(path, weights_only=False)),
    "conversion": (checkpoint, lambda path: convert_checkpoint(path, path.with_suffix(".safetensors"))),
    "model's own start": (
        checkpoint,
        lambda path: instantiate_from_config(first_stage(resolution=4, n_embed=4, ckpt_path=str(path))),
    ),
    "dVAE": (checkpoint, read_network),
    "dVAE, old format": (pickled, read_network),
    "weights of a metric": (checkpoint, lambda path: FidelityOptions(weights=path)),
    "bare pickle": (pickled, load_checkpoint),
    "renamed pickle": (
        lambda path, content: pickled(path, content).rename(path / "x.safetensors"),
        load_checkpoint,
    ),
    "token cache": (token_folder, TokenCache),
    "image in an array": (numpy_file, lambda path: read_npy(path, "data")),
    "codes in use": (numpy_file, lambda path: VectorQuantizer2(8, 4, beta=0.25, remap=path)),
    "candidates": (candidates, load_candidates),
}


@pytest.mark.parametrize("door", DOORS)
def test_doors(tmp_path, payload, made, door):
    write, read = DOORS[door]
    path = write(tmp_path, payload)
    made.unlink(missing_ok=True)
    with pytest.raises((ValueError, OSError)) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert not made.exists()


def test_an_image_cache_holds_pixels_only(tmp_path, payload, made):
    image = tmp_path / "image.png"
    image.touch()
    cache, pixels = ImageCache(tmp_path / "cache", "settings"), np.ones((2, 2, 3), np.uint8)
    cache.get(image, lambda path: pixels)
    (entry,) = (path for path in cache.folder.rglob("*") if path.is_file())
    entry.write_bytes(pickle.dumps(payload))
    assert np.array_equal(cache.get(image, lambda path: pixels * 2), pixels * 2)
    assert not made.exists()
