"""What a config may name that came with a downloaded model: the classes that networks, data and training consist of.

A config is code: its targets are called with parameters of its choice. That is the freedom of a config of one's own,
and too much for one from elsewhere. A run folder counts as downloaded if it has the name of a published model, or holds
MARK, which `taming.pretrained` leaves there.
"""

import importlib
import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from taming.config_errors import SOURCES, ConfigError
from taming.instantiation import ALIASES, REFUSED
from taming.published import models_by_name

MARK = "DOWNLOADED"
NOTE = """\
The files beside this one were downloaded. While it is here, configs/*.yaml may only name classes that taming knows to
be harmless. Delete it if you have read these configs and want them to name others.
"""

PACKAGES = (
    "pytorch_lightning.callbacks",
    "taming.training.callbacks",
    "taming.data",
    "taming.lr_scheduler",
    "taming.models",
    "taming.modules",
    "taming.weight_average",
    "torch.nn",
    "torch.optim",
)
"""Whose classes may be named. No functions: some download to, or unpack in, any folder that a parameter names."""

LOGGERS = tuple(f"pytorch_lightning.loggers.{kind}Logger" for kind in ("CSV", "TensorBoard", "Wandb"))

RUN_COMMANDS = ("taming.data.webdataset",)
"""Not to be named in spite of PACKAGES: an address may be `pipe:` and a command there."""

PLAIN_REFERENCE = re.compile(r"\$\{[\w.\[\]-]+\}")


def mark_as_downloaded(folder: str | os.PathLike) -> None:
    """Restrict what the configs of a run folder may name; the folder is made if missing."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, MARK).write_text(NOTE, encoding="utf-8")


def is_downloaded(config: str | os.PathLike) -> bool:
    """Whether a config file lies in a run folder, or its `configs`, that counts as downloaded."""
    folders = [folder for path in (Path(config).absolute(), Path(config).resolve()) for folder in path.parents[:2]]
    published = models_by_name()
    return any(folder.name in published or (folder / MARK).exists() for folder in folders)


def restricted(config: DictConfig, source: str | os.PathLike) -> DictConfig:
    """A config that came with a downloaded model, with a stand-in for each target that it may not name.

    Only using it is an error, so what is never built, such as the data of the training, may name anything. Raises
    ConfigError, naming `source`, for `${resolver:...}`, which reads the environment or whatever else has been
    registered.
    """
    result = OmegaConf.create(_restricted(OmegaConf.to_container(config, resolve=False), str(source), ""))
    result.__dict__[SOURCES] = config.__dict__.get(SOURCES, {})
    return result


def _restricted(value: Any, source: str, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _restricted(item, source, f"{key}.{name}".strip(".")) for name, item in value.items()}
    if isinstance(value, list):
        return [_restricted(item, source, f"{key}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if "${" in PLAIN_REFERENCE.sub("", value):
        raise ConfigError(
            f"{source}: {key} = {value}: refused, a config that came with a downloaded model may refer to its own "
            "keys only; write the value there",
            key=key,
        )
    names_target = key.endswith("target")  # also category_mapping_target and the like
    return value if not names_target or _is_trusted(value) else f"{REFUSED}{value}"


def _is_trusted(target: str) -> bool:
    target = ALIASES.get(target, target)
    if target in LOGGERS or not _is_within(target, PACKAGES):
        return target in LOGGERS
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):  # using it will say so
        return True
    if not inspect.isclass(found):
        return not callable(found)
    return _is_within(found.__module__, PACKAGES) and not _is_within(found.__module__, RUN_COMMANDS)


def _is_within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)
