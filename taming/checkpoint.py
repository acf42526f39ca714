"""Checkpoints: read without running what is in them, written atomically, and loaded into models with a report.

A checkpoint is data from a stranger. Only tensors and plain containers are read, and a few historic classes become
inert stand-ins; a file that names anything else is refused.
"""

import logging
import os
import pickle
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor, nn

from taming.files import atomic_path

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A file that is no checkpoint, is refused, or does not fit the model; the message is one line and names it."""


class _StandIn:
    """Takes the place of an OmegaConf node; it only holds the attributes of the node."""


HISTORIC_CLASSES = (
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.gradient_accumulation_scheduler.GradientAccumulationScheduler",
    "pytorch_lightning.callbacks.lr_logger.LearningRateLogger",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
)
"""Classes that files of Lightning < 1.5 use as keys of `callbacks`: each is read as its own name, a string."""

OMEGACONF_NODES = (
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Float", "Integer", "String")),
)
"""Classes of saved hyperparameters."""

SAFE_GLOBALS = [
    *((name, name) for name in (*HISTORIC_CLASSES, "typing.Any")),
    *((_StandIn, name) for name in OMEGACONF_NODES),
    *((kind, f"builtins.{kind.__name__}") for kind in (bool, dict, float, int, list, str)),
    (dict, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (defaultdict, "collections.defaultdict"),
    *((np._core.multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(getattr(np.dtypes, f"{kind}DType") for kind in ("Bool", "Float32", "Float64", "Int32", "Int64")),
]
"""What a checkpoint may name besides what torch allows: (what it is read as, its name in the file)."""


def load_checkpoint(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint file: a Lightning checkpoint, a bare mapping of tensors, or a `.safetensors` file.

    The result always has "state_dict" and "global_step" (0 if the file does not say). Raises FileNotFoundError, and
    CheckpointError for a file that is damaged, is no checkpoint, or holds objects other than tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    content = _read_safetensors(path, map_location) if path.suffix == ".safetensors" else _read(path, map_location)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    if "state_dict" not in content:
        if not content or not all(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(f"{path}: has no state_dict and is no mapping of names to tensors either")
        content = {"state_dict": content}
    checkpoint = {key: value if key == "state_dict" else _plain(value) for key, value in content.items()}
    return {"global_step": 0, **checkpoint}


def _read(path: Path, map_location: Any) -> Any:
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: refused, it holds an object of {refused[1]}; only tensors and plain data are read"
            ) from error
        raise _damaged(path) from error
    except (PermissionError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged bytes upset the reader in any way; whichever, this file cannot be read
        raise _damaged(path) from error


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: truncated, or not a checkpoint ({path.stat().st_size} bytes)")


def _read_safetensors(path: Path, map_location: Any) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(f"{path}: reading this format needs a package: pip install safetensors") from None
    try:
        return load_file(path, device=str(map_location))
    except SafetensorError as error:
        raise _damaged(path) from error


def _plain(value: Any) -> Any:
    """`value` with OmegaConf nodes, their stand-ins, paths, classes and numpy scalars as plain data."""
    if isinstance(value, _StandIn):
        held = vars(value)
        return _plain(held.get("_content", held.get("_val")))
    if OmegaConf.is_config(value):
        return _plain(OmegaConf.to_container(value))
    if type(value) in (dict, defaultdict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def save_checkpoint_atomic(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a checkpoint that `torch.load(path, weights_only=True)` reads; `path` never holds half of one.

    What that reader would refuse of configurations, paths and classes beside the weights is written as plain data.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {key: value if key == "state_dict" else _plain(value) for key, value in checkpoint.items()}
    with atomic_path(path) as temporary:
        torch.save(plain, temporary)


class SafeCheckpointIO(CheckpointIO):
    """Lets a Trainer write checkpoints atomically and read them with `load_checkpoint`; for `Trainer(plugins=...)`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any | None = None
    ) -> None:
        save_checkpoint_atomic(checkpoint, path)

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, weights only whatever `weights_only` says; a file without a version counts as current."""
        checkpoint = load_checkpoint(path, map_location or "cpu")
        return {"pytorch-lightning_version": pl.__version__, **checkpoint}

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        path = Path(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


class IncompatibleKeys(NamedTuple):
    """Keys that a model has and its checkpoint lacks, and the other way round, like torch's own report."""

    missing_keys: list[str]
    unexpected_keys: list[str]


TOLERATED = re.compile(r"(^|\.)(loss\.|colorize$|attn\.mask$)")
"""Keys that inference does without: the loss and its networks, a palette, causal masks."""

STAGES = {
    "first_stage_model.": "first_stage_config.params.",
    "cond_stage_model.": "cond_stage_config.params.",
    "transformer.": "transformer_config.params.",
    "loss.": "lossconfig.params.",
}
"""Where the weights of a part are -> where its parameters are in the config."""

SHAPE_KEYS = (
    (r"quantize\.(embedding|embed)\.weight$", ("n_embed", "embed_dim")),
    (r"quantize\.proj\.weight$", ("n_embed",)),
    (r"post_quant_conv\.", ("ddconfig.z_channels", "embed_dim")),
    (r"quant_conv\.", ("embed_dim", "ddconfig.z_channels")),
    (r"colorize$", (None, "n_labels")),
    (r"encoder\.conv_in\.", ("ddconfig.ch", "ddconfig.in_channels")),
    (r"encoder\.conv_out\.", ("ddconfig.z_channels",)),
    (r"decoder\.conv_out\.", ("ddconfig.out_ch",)),
    (r"(encoder|decoder)\.", ("ddconfig.ch_mult", "ddconfig.ch_mult")),
    (r"tok_emb\.weight$", ("vocab_size", "n_embd")),
    (r"pos_emb$", (None, "block_size", "n_embd")),
    (r"head\.weight$", ("vocab_size", "n_embd")),
    (r"blocks\.", ("n_embd", "n_embd")),
    (r"discriminator\.main\.0\.", ("disc_ndf", "disc_in_channels")),
)
"""Weights by name -> the config key that sets each axis of their shape."""


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    ignore_keys: Sequence[str] = (),
    source: str | os.PathLike = "checkpoint",
    strict: bool = False,
) -> IncompatibleKeys:
    """Load what fits by name; keys that begin with one of `ignore_keys` are left out.

    Missing and unexpected keys are logged in one line. `source` names the checkpoint in messages. Raises
    CheckpointError for weights of another shape, if no name fits at all, and with `strict` for keys that matter: a
    missing one, or one too many of a part that the model has, unless inference does without it.
    """
    weights = {key: value for key, value in state_dict.items() if not key.startswith(tuple(ignore_keys))}
    _check_fit(module, weights, source)
    result = IncompatibleKeys(*module.load_state_dict(weights, strict=False))
    fatal = [f"{problem} {summary(keys)}" for problem, keys in _fatal_keys(module, result).items() if keys]
    if strict and fatal:
        raise CheckpointError(f"{source}: does not fit the config, {'; '.join(fatal)}")
    if any(result):
        report = logger.warning if fatal else logger.info
        report("%s: missing %s; unexpected %s", source, summary(result.missing_keys), summary(result.unexpected_keys))
    return result


def summary(keys: Iterable[str]) -> str:
    """State-dict keys counted by the part of the model that they belong to: `loss.discriminator (12), colorize`."""
    counts = Counter(".".join(key.split(".")[:2]) for key in keys)
    parts = [part if count == 1 else f"{part} ({count})" for part, count in counts.most_common()]
    return ", ".join(parts[:6] + [f"and {len(parts) - 6} more parts"] * (len(parts) > 6)) or "none"


def _fatal_keys(module: nn.Module, result: IncompatibleKeys) -> dict[str, list[str]]:
    parts = {name for name, _ in module.named_children()}
    return {
        "missing": [key for key in result.missing_keys if not TOLERATED.search(key)],
        "unexpected": [
            key for key in result.unexpected_keys if key.split(".")[0] in parts and not TOLERATED.search(key)
        ],
    }


def _check_fit(module: nn.Module, weights: Mapping[str, Tensor], source: str | os.PathLike) -> None:
    own = module.state_dict()
    common = [key for key in own if isinstance(weights.get(key), Tensor)]
    if own and not common:
        raise CheckpointError(
            f"{source}: holds nothing for {type(module).__name__}, but {summary(weights)}; "
            f"a part of a larger model is taken out with scripts/extract_submodel.py"
        )
    misfits = [key for key in common if own[key].shape != weights[key].shape]
    if misfits:
        shapes = [(key, tuple(weights[key].shape), tuple(own[key].shape)) for key in misfits]
        key, theirs, ours = next((shape for shape in shapes if _shape_hint(*shape)), shapes[0])
        more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
        raise CheckpointError(
            f"{source}: {key} is {theirs} in the file, {ours} in the model{more}{_shape_hint(key, theirs, ours)}"
        )


def _shape_hint(key: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> str:
    """Which config key probably makes the difference between the two shapes of a weight."""
    prefix = ""
    for stage, place in STAGES.items():
        if key.startswith(stage):
            key, prefix = key.removeprefix(stage), prefix + place
    names = next((names for pattern, names in SHAPE_KEYS if re.match(pattern, key)), ())
    for name, there, here in zip(names, theirs, ours, strict=False):
        if name is not None and there != here:
            return f"; check {prefix}{name} of the config"
    return ""
