"""Trainer options: every argument of Lightning's Trainer, of 2.6 and of 1.0.8, in a config file or on a command line.

Each source of options is translated to Lightning 2.6 before sources are merged, so that an old `--gpus 0,` overrides
a saved `devices: 2`, and the other way round.
"""

import argparse
import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer

from taming.config import COMMAND_LINE, ConfigError, ConfigSource, suggestion
from taming.launchers import launched_settings
from taming.training.legacy_trainer import (
    FIND_UNUSED,
    LEGACY,
    LEGACY_ACCELERATORS,
    LEGACY_SWITCHES,
    VALUES,
    Settings,
    dropped,
    parse_devices,
)

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS = 1000

_PARAMETERS = inspect.signature(Trainer).parameters
CURRENT = tuple(_PARAMETERS)
"""Arguments of Lightning 2.6's Trainer."""

OPTION_NAMES = (*LEGACY, *CURRENT)
SWITCHES = {
    *LEGACY_SWITCHES,
    *(name for name, p in _PARAMETERS.items() if bool in (p.annotation, *get_args(p.annotation))),
}
"""Options that mean true when they are given without a value."""

Origins = dict[str, str]
"""Key in `lightning.trainer` -> how a message names the option that set it."""


def translate(sources: Sequence[ConfigSource]) -> tuple[list[ConfigSource], Origins]:
    """The sources with `lightning.trainer` in Lightning 2.6 keys, and where each of these keys comes from.

    Raises ConfigError, naming source and option, for an unknown name, a value that cannot be used, and what one source
    says in the old and in the new style at once.
    """
    translated: list[ConfigSource] = []
    origins: Origins = {}
    accelerator = None
    for source in sources:
        config = _without_trainer(source.config)
        for place, (option, value) in _places(source).items():
            OmegaConf.update(config, f"lightning.{place}", value, merge=False, force_add=True)
            origins[place.removeprefix("trainer.")] = option
        trainer = config.lightning.trainer
        earlier, accelerator = accelerator, trainer.get("accelerator", accelerator)
        _settle_processes(trainer, accelerator or "auto")
        if earlier not in (None, accelerator):
            trainer.setdefault("devices", 1)  # an earlier source counted devices of another kind
        translated.append(ConfigSource(source.name, config))
    return translated, origins


def _without_trainer(config: DictConfig) -> DictConfig:
    content = OmegaConf.to_container(config, resolve=False)
    lightning = content.get("lightning") or {}
    return OmegaConf.create({**content, "lightning": {**lightning, "trainer": {}}})


def _places(source: ConfigSource) -> dict[str, tuple[str, Any]]:
    """Place in the `lightning` section -> (the option that belongs there, the value)."""
    section = OmegaConf.to_container(source.config, resolve=False).get("lightning") or {}
    given = section.get("trainer") or {}
    places: dict[str, tuple[str, Any]] = {}
    for option, value in given.items():
        named = _named(source, option, value)
        for place, setting in _translated(option, value, named).items():
            if place in places:
                raise ConfigError(f"{named} and {places[place][0]} say the same thing; keep one of the two")
            places[place] = (named, setting)
    ignored = [option for option in given if LEGACY.get(option) is dropped]
    if ignored:
        logger.info("%s: ignored, Lightning no longer has it: %s", source.name, ", ".join(ignored))
    return places


def _named(source: ConfigSource, option: str, value: Any) -> str:
    """How a message names an option: `--gpus 0,` or `configs/a.yaml: lightning.trainer.gpus = 0,`."""
    if source.name == COMMAND_LINE and option in OPTION_NAMES:
        return f"--{option} {value}"
    return f"{source.name}: lightning.trainer.{option} = {value}"


def _translated(option: str, value: Any, named: str) -> Settings:
    """What one given option sets, by place in the `lightning` section."""
    if option not in OPTION_NAMES:
        raise ConfigError(f"{named}: no such Trainer option{suggestion(option, OPTION_NAMES)}")
    if option == "accelerator" and value in LEGACY_ACCELERATORS:
        option = "distributed_backend"
    try:
        if option in LEGACY:
            return LEGACY[option](value)
        return {f"trainer.{option}": VALUES[option](value) if option in VALUES else value}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{named}: {error}") from error


def _settle_processes(trainer: DictConfig, accelerator: str) -> None:
    """`num_processes` counts processes on the CPU, and nothing on other devices."""
    count = trainer.pop("num_processes", None)
    if count is None:
        return
    if accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available()):
        trainer.setdefault("devices", count)
    elif count != 1:
        logger.info("num_processes %s is ignored: it is for the CPU", count)


def check_devices(trainer: Mapping[str, Any], origins: Origins) -> None:
    """Raise ConfigError, naming the option, if it asks for a GPU that this machine does not have."""
    accelerator, devices = trainer.get("accelerator"), trainer.get("devices")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            f"{origins['accelerator']}: no MPS device is available; leave it out or use --accelerator cpu"
        )
    if accelerator not in ("gpu", "cuda"):
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"{origins['accelerator']}: no CUDA GPU is available; leave the option out to train on what there is, "
            f"or use --accelerator cpu or --accelerator mps"
        )
    count = torch.cuda.device_count()
    if devices is not None and _highest_index(parse_devices(devices)) >= count:
        raise ConfigError(f"{origins['devices']}: this machine has {count} GPU(s), counted from 0")


def _highest_index(devices: int | str | list[int]) -> int:
    if isinstance(devices, list):
        return max(devices)
    return -1 if devices == "auto" else devices - 1


def trainer_arguments(settings: Mapping[str, Any]) -> Settings:
    """Arguments for `Trainer`: the merged options over this project's defaults.

    One device of the best kind, or those that a launcher has started processes for; several devices search for unused
    parameters, because models with two optimizers leave some out of each backward pass; 1000 epochs if nothing else
    ends the run.
    """
    arguments: Settings = {"accelerator": "auto", "devices": 1, **launched_settings(), **settings}
    if device_count(arguments) > 1 or (arguments.get("num_nodes") or 1) > 1:
        arguments.setdefault("strategy", FIND_UNUSED)
    endless = arguments.get("max_steps", -1) == -1 and arguments.get("max_time") is None
    if arguments.get("max_epochs") is None and endless:
        arguments["max_epochs"] = DEFAULT_EPOCHS
    if arguments.get("barebones"):
        arguments |= dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
    return arguments


def device_count(arguments: Settings) -> int:
    """The devices of one machine that the Trainer's arguments name."""
    devices = parse_devices(arguments["devices"])
    if devices in (-1, "auto"):
        return 1 if arguments["accelerator"] == "cpu" else max(1, torch.accelerator.device_count())
    return len(devices) if isinstance(devices, list) else devices


def parse_value(text: str) -> Any:
    """An option's value, read as YAML: 4, 0.5, true, null, [0, 1], {0: 1, 4: 2}, or text such as `0,` or `00:12:00:00`.

    Raises argparse.ArgumentTypeError for broken YAML.
    """
    if re.fullmatch(r"\d+(:\d+)+", text):
        return text  # YAML would read a time as a number to base 60
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a YAML value") from error


def add_trainer_options(parser: argparse.ArgumentParser) -> None:
    """Add every Trainer option; those not given leave no trace in the parsed namespace."""
    for title, names in (("Trainer options", CURRENT), ("Trainer options of Lightning 1.0, translated", LEGACY)):
        group = parser.add_argument_group(title)
        for name in names:
            bare = {"nargs": "?", "const": True} if name in SWITCHES else {}
            group.add_argument(f"--{name}", default=argparse.SUPPRESS, type=parse_value, metavar="VALUE", **bare)


def nondefault_trainer_args(options: argparse.Namespace) -> list[str]:
    """Names of the Trainer options that were given, sorted."""
    return sorted(name for name in vars(options) if name in OPTION_NAMES)


def with_options(sources: Sequence[ConfigSource], options: argparse.Namespace) -> Iterator[ConfigSource]:
    """The sources with the Trainer options that were given on the command line, which is the last source."""
    given = {name: getattr(options, name) for name in nondefault_trainer_args(options)}
    overrides = OmegaConf.create()
    for source in sources:
        if source.name == COMMAND_LINE:
            overrides = source.config
        else:
            yield source
    yield ConfigSource(COMMAND_LINE, OmegaConf.merge(overrides, {"lightning": {"trainer": given}}))
