"""Experiment loggers: what each kind is given by default, and how it shows images."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.utils import make_grid

from taming.config import ConfigError, config_error, get_obj_from_str, instantiate_from_config
from taming.images import displayable, to_uint8

DEFAULT_TARGET = "pytorch_lightning.loggers.TensorBoardLogger"


def default_logger(section: Mapping[str, Any] | None, logdir: Path, *, offline: bool) -> dict[str, Any]:
    """The target config that a `lightning.logger` section changes; each kind of logger has defaults of its own.

    `logdir` is the run folder. `offline` is for services on the network: write to the disk only.
    """
    section = section or {}
    target = section.get("target", DEFAULT_TARGET)
    try:
        logger_class = get_obj_from_str(target)
    except ConfigError as error:
        raise config_error(section, "target", str(error)) from None
    params: dict[str, Any] = {"save_dir": str(logdir)}
    if issubclass(logger_class, TensorBoardLogger):
        params |= {"name": "tensorboard"}
    elif issubclass(logger_class, CSVLogger):
        params |= {"name": "csv"}
    elif issubclass(logger_class, WandbLogger):
        params |= {"name": logdir.name, "id": logdir.name, "offline": offline}
    elif "save_dir" not in inspect.signature(logger_class).parameters:
        params = {}
    return {"target": target, "params": params}


def build_logger(section: Mapping[str, Any]) -> Logger:
    """Instantiate a logger; raises ConfigError if its package is missing."""
    try:
        return instantiate_from_config(section)
    except ModuleNotFoundError as error:
        extra = "wandb" if "wandb" in section["target"].lower() else "all"
        raise ConfigError(f"lightning.logger: {error}; pip install 'taming-transformers[{extra}]'") from error


def log_images(loggers: Sequence[Logger], images: Mapping[str, Tensor], step: int) -> None:
    """Show images, tag -> (n, c, h, w) in [-1, 1], as one grid per tag in the loggers that can."""
    grids = {tag: to_uint8(make_grid(displayable(batch))) for tag, batch in images.items()}  # tag -> (H, W, 3)
    for experiment in loggers:
        for tag, grid in grids.items():
            if isinstance(experiment, TensorBoardLogger):
                experiment.experiment.add_image(tag, grid, global_step=step, dataformats="HWC")
            elif isinstance(experiment, WandbLogger):
                experiment.log_image(tag, [grid], step=step)
