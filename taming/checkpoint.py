"""Checkpoints: read without running what is in them, written atomically, converted, and asked for their config.

A checkpoint is data from a stranger. Only tensors and plain containers are read, and a few historic classes become
inert stand-ins; a file that names anything else is refused. `checkpoint_fit` loads weights into models.
"""

import os
import pickle
import re
import shutil
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor, nn

from taming.checkpoint_fit import CheckpointError, IncompatibleKeys, explain_misfit, load_weights
from taming.config_errors import one_line
from taming.files import atomic_path
from taming.infer_config import first_stage_config

__all__ = [
    "CheckpointError",
    "IncompatibleKeys",
    "SafeCheckpointIO",
    "check_intact",
    "convert_checkpoint",
    "explaining_misfits",
    "export_safetensors",
    "infer_config",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint_atomic",
]

TORCH_SUFFIXES = (".ckpt", ".pt", ".pth")
SAFETENSORS_SUFFIX = ".safetensors"


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

    The result always has "state_dict" and "global_step" (0 if the file does not say). With map_location="meta" only
    names, shapes and types of the weights are read. Raises FileNotFoundError, and CheckpointError for a file that is
    damaged, is no checkpoint, or holds objects other than tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    if path.suffix == SAFETENSORS_SUFFIX:
        return _read_safetensors(path, str(map_location))
    content = _read(path, map_location)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint")
    if "state_dict" not in content:
        if not content or not all(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(f"{path}: has no state_dict and is no mapping of names to tensors either")
        content = {"state_dict": content}
    if not _is_state_dict(content["state_dict"]):
        raise CheckpointError(f"{path}: its state_dict is no mapping of names to tensors")
    checkpoint = {key: value if key == "state_dict" else _plain(value) for key, value in content.items()}
    return {"global_step": 0, **checkpoint}


def _is_state_dict(value: Any) -> bool:
    """Whether it maps names to tensors; modules may add a state of another kind (`get_extra_state`)."""
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and (isinstance(item, Tensor) or key.endswith("_extra_state"))
        for key, item in value.items()
    )


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


def _safetensors(path: Path) -> ModuleType:
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(f"{path}: this format needs a package: pip install safetensors") from None
    return safetensors


def _read_safetensors(path: Path, device: str) -> dict[str, Any]:
    package = _safetensors(path)
    try:
        with package.safe_open(path, framework="pt", device="cpu" if device == "meta" else device) as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, the file is no mapping
    except package.SafetensorError as error:
        raise _damaged(path) from error
    if device == "meta":
        weights = {key: value.to("meta") for key, value in weights.items()}
    step = metadata.get("global_step", "0")
    checkpoint = {"state_dict": weights, "global_step": int(step) if step.isdecimal() else 0}
    return checkpoint | {key: metadata[key] for key in ("config",) if key in metadata}


def export_safetensors(
    checkpoint_path: str | os.PathLike, out_path: str | os.PathLike, *, config: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint's weights as a safetensors file, complete or not at all; nothing else but its step is kept.

    The file's metadata holds `global_step` and, if given, `config` as YAML; `load_checkpoint` gives back both. Raises
    what `load_checkpoint` does, and CheckpointError without the package safetensors.
    """
    path = Path(out_path)
    package = _safetensors(path)
    checkpoint = load_checkpoint(checkpoint_path)
    weights = checkpoint["state_dict"]
    if odd := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{checkpoint_path}: {odd[0]} is no tensor, so this format cannot hold it")
    metadata = {"format": "pt", "global_step": str(checkpoint["global_step"])}
    if config is not None:
        metadata["config"] = OmegaConf.to_yaml(config if OmegaConf.is_config(config) else OmegaConf.create(config))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        package.torch.save_file(_unshared(weights), temporary, metadata=metadata)


def _unshared(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with those copied that lie in memory which another one has; the format allows no sharing."""
    seen: set[int] = set()
    result = {}
    for key, value in weights.items():
        storage = value.untyped_storage().data_ptr()
        result[key] = value.clone(memory_format=torch.contiguous_format) if storage in seen else value.contiguous()
        seen.add(storage)
    return result


def convert_checkpoint(source: str | os.PathLike, target: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Write `source` in the format that the suffix of `target` names: .safetensors, or .ckpt, .pt and .pth.

    Raises what `load_checkpoint` does, ValueError for another suffix, FileExistsError if `target` exists and is not to
    be overwritten.
    """
    target = Path(target)
    if target.suffix not in (SAFETENSORS_SUFFIX, *TORCH_SUFFIXES):
        known = ", ".join((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES))
        raise ValueError(f"{target}: the suffix tells the format, it must be one of {known}")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; give --overwrite to replace it")
    if target.suffix == SAFETENSORS_SUFFIX:
        export_safetensors(source, target)
    else:
        save_checkpoint_atomic(load_checkpoint(source), target)


def infer_config(
    weights: str | os.PathLike | Mapping[str, Any],
    *,
    part: str = "",
    resolution: int = 256,
    remap: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """The target config of a first stage, from the names and shapes of its weights.

    weights: a checkpoint file or a state dict. part: where in a larger model the first stage is, `first_stage_model` or
    `cond_stage_model` in a transformer. resolution: that of the training images, which the weights do not tell; it only
    gives the levels with attention their names. remap: the file of code numbers for a model that keeps some codes only.
    What no weight shows has its default; `disc_start` is 0, as the discriminator has been trained. Raises
    CheckpointError if there is no first stage or not all of it, and what `load_checkpoint` raises.
    """
    source: str | os.PathLike = "state dict"
    if not isinstance(weights, Mapping):
        source, weights = weights, load_checkpoint(weights, "meta")
    state_dict = weights.get("state_dict", weights)
    return first_stage_config(state_dict, source=source, part=part, resolution=resolution, remap=remap)


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


def check_intact(path: str | os.PathLike) -> None:
    """Raise CheckpointError for a torch file that is cut or overwritten; the numbers of its tensors are not looked at.

    Files of torch < 1.6 have no directory that could tell and always pass.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            (description,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            archive.read(description)  # compares its checksum
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        with path.open("rb") as file:
            if file.read(1) != pickle.PROTO:
                raise _damaged(path) from error


def save_checkpoint_atomic(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a checkpoint that `torch.load(path, weights_only=True)` reads; `path` never holds half of one.

    What that reader would refuse of configurations, paths and classes beside the weights is written as plain data. The
    file passes `check_intact` before it replaces the one at `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {key: value if key == "state_dict" else _plain(value) for key, value in checkpoint.items()}
    with atomic_path(path, durable=True) as temporary:
        _save(plain, temporary)
        check_intact(temporary)


def _save(content: Any, path: Path) -> None:
    """`torch.save`; what keeps the file from being written, such as a full disk, is an OSError, as torch's is not."""
    try:
        with open(path, "wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


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


@contextmanager
def explaining_misfits(model: nn.Module, checkpoint: str | os.PathLike | None) -> Iterator[None]:
    """A block in which a Trainer restores `model`: torch's report of what does not fit becomes a CheckpointError."""
    try:
        yield
    except RuntimeError as error:
        if checkpoint is None or not str(error).startswith("Error(s) in loading state_dict"):
            raise
        weights = load_checkpoint(checkpoint, "meta")["state_dict"]
        raise CheckpointError(f"{checkpoint}: {explain_misfit(model, weights) or one_line(error)}") from error
