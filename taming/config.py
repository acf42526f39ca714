"""Configurations: YAML files and command-line overrides merged into one, instantiated, and blamed for their mistakes.

`load_config` remembers which source set each value. `source_of(config, "lightning.trainer.max_epochs")` gives its name,
a file's path or COMMAND_LINE, also on a section of the config; errors name it with the full key. Whoever has to treat
each source on its own takes `read_sources`, changes what it must, and merges with `merge_sources`.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from taming.config_errors import (
    SOURCES,
    ConfigError,
    ConfiguredFileNotFoundError,
    MissingKeyError,
    config_error,
    key_path,
    nearest,
    one_line,
    source_of,
    suggestion,
    typo_limit,
)
from taming.instantiation import (
    canonical_target,
    check_keywords,
    check_target,
    get_obj_from_str,
    instantiate_from_config,
)
from taming.trusted_targets import is_downloaded, restricted

__all__ = [
    "COMMAND_LINE",
    "ConfigError",
    "ConfigSource",
    "check_keywords",
    "check_target",
    "config_error",
    "get_obj_from_str",
    "instantiate_from_config",
    "load_config",
    "merge_sources",
    "nearest",
    "read_sources",
    "source_of",
    "suggestion",
    "validate_config",
]

logger = logging.getLogger(__name__)

COMMAND_LINE = "command line"

UNUSABLE_VALUE = (OmegaConfBaseException, ValueError, TypeError, AttributeError, LookupError)
"""What OmegaConf and PyYAML raise for values such as `${` and `!!float x`, whose syntax is right."""

DATA_MODULE = "taming.data.datamodule.DataModuleFromConfig"
SPLITS = ("train", "validation", "test")
SECTION_KEYS = {
    "model": ("base_learning_rate", "target", "params"),
    "data": ("target", "params"),
    "lightning": ("trainer", "logger", "modelcheckpoint", "callbacks"),
}


@dataclass(frozen=True)
class ConfigSource:
    """One place that sets values: a YAML file, the command line, a program's own settings."""

    name: str
    config: DictConfig


def load_config(
    paths: Sequence[str | PathLike], overrides: Sequence[str] = (), *, ignore_base_data: bool = False
) -> DictConfig:
    """Merge YAML files from left to right, then `key=value` overrides in OmegaConf's dotlist syntax.

    Mappings merge recursively; lists and scalars are replaced. ignore_base_data drops the `data` section of each file,
    so that an override can replace it. Raises ConfigError for a file that is absent or is no YAML mapping, and for a
    malformed override.
    """
    return merge_sources(read_sources(paths, overrides, ignore_base_data=ignore_base_data))


def read_sources(
    paths: Sequence[str | PathLike], overrides: Sequence[str] = (), *, ignore_base_data: bool = False
) -> list[ConfigSource]:
    """The sources that `load_config` merges, in its order."""
    sources = [ConfigSource(str(path), _read_yaml(Path(path))) for path in paths]
    if ignore_base_data:
        for source in sources:
            source.config.pop("data", None)
    if overrides:
        sources.append(ConfigSource(COMMAND_LINE, _read_overrides(overrides)))
    return sources


def merge_sources(sources: Sequence[ConfigSource]) -> DictConfig:
    """Merge sources, later ones over earlier ones. A config that was merged before keeps the names of its sources."""
    merged = OmegaConf.create({})
    origins: dict[str, str] = {}
    for source in sources:
        set_here = dict.fromkeys(_leaves(OmegaConf.to_container(source.config, resolve=False)), source.name)
        origins |= set_here | source.config.__dict__.get(SOURCES, {})
        try:
            merged = OmegaConf.merge(merged, source.config)
        except (OmegaConfBaseException, TypeError) as error:
            raise ConfigError(f"{source.name}: {_clash(merged, source.config) or one_line(error)}") from error
    leaves = _leaves(OmegaConf.to_container(merged, resolve=False))
    merged.__dict__[SOURCES] = {leaf: origins[leaf] for leaf in leaves if leaf in origins}
    return merged


def _read_yaml(path: Path) -> DictConfig:
    if not path.is_file():
        others = [str(other) for folder in (path.parent, Path("configs")) for other in sorted(folder.glob("*.yaml"))]
        near = nearest(str(path), others)
        raise ConfiguredFileNotFoundError(f"{path}: no such config file{f'; did you mean {near}?' if near else ''}")
    try:
        config = OmegaConf.load(path)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_yaml_problem(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8") from error
    except UNUSABLE_VALUE as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ConfigError(f"{path}: expected a mapping of sections such as model and data: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: expected a mapping of sections such as model and data, not a list")
    return restricted(config, path) if is_downloaded(path) else config


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    return f"{line}: not valid YAML: {getattr(error, 'problem', None) or one_line(error)}"


def _read_overrides(overrides: Sequence[str]) -> DictConfig:
    for item in overrides:
        key, equals, value = " ".join(item.splitlines()).partition("=")
        if not equals or item.startswith("-") or not all(key.split(".")):
            raise ConfigError(f"{COMMAND_LINE}: {item!r} is not an override of the form section.key=value")
        try:
            OmegaConf.from_dotlist([item])
        except yaml.YAMLError as error:
            raise ConfigError(f"{COMMAND_LINE}: {key} = {value}{_yaml_problem(error)}", key=key) from error
        except UNUSABLE_VALUE as error:
            raise ConfigError(f"{COMMAND_LINE}: {key} = {value}: {one_line(error)}", key=key) from error
    return OmegaConf.from_dotlist(list(overrides))


def _leaves(content: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Full keys of all values that are no sections; a list is one value."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _clash(old: DictConfig, new: DictConfig) -> str | None:
    """What keeps `new` from being merged over `old`: a list where a section is, or the other way round."""
    for key in set(old) & set(new):
        ours, theirs = old.get(key), new.get(key)
        if isinstance(ours, DictConfig) and isinstance(theirs, DictConfig):
            if problem := _clash(ours, theirs):
                return problem
        elif OmegaConf.is_config(ours) and OmegaConf.is_config(theirs) and type(ours) is not type(theirs):
            kinds = "a section" if isinstance(ours, DictConfig) else "a list, which is only replaced as a whole,"
            return f"{key_path(new, key)} cannot be merged, it is {kinds} in an earlier source"
    return None


def validate_config(config: DictConfig) -> None:
    """Check what can be checked of a training config before anything is built; raises ConfigError.

    Sections and their keys, what is required, and for model and data sets the targets with their parameters. Not
    `lightning.trainer`, which has rules of its own. A top-level section that is no slip of a known one only warns:
    people keep YAML anchors there.
    """
    for name in map(str, config):
        if name not in SECTION_KEYS:
            problem = f"unknown section{suggestion(name, tuple(SECTION_KEYS))}"
            if nearest(name, SECTION_KEYS, limit=typo_limit(name)):
                raise config_error(config, name, problem)
            logger.warning("%s: %s is ignored: %s", source_of(config, name), name, problem)
    for section, keys in SECTION_KEYS.items():
        if section != "lightning" or config.get(section) is not None:
            _check_keys(_section(config, section), keys)
    _require_number(config.model, "base_learning_rate")
    check_target(config.model)
    _validate_data(config.data)


def _validate_data(data: DictConfig) -> None:
    params = _section(data, "params")
    _require_number(params, "batch_size")
    check_target(data)
    if canonical_target(data.target) == DATA_MODULE:
        for split in SPLITS:
            if params.get(split) is not None:
                check_target(_section(params, split))


def _section(config: DictConfig, key: str) -> DictConfig:
    section = config.get(key)
    if section is None:
        raise config_error(config, key, "this section is missing", kind=MissingKeyError)
    if not isinstance(section, DictConfig):
        raise config_error(config, key, "expected a section with keys of its own")
    return section


def _check_keys(section: DictConfig, names: Sequence[str]) -> None:
    for name in map(str, section):
        if name not in names:
            raise config_error(section, name, f"unknown key{suggestion(name, names)}")


def _require_number(section: DictConfig, key: str) -> None:
    value = section.get(key)
    if value is None:
        raise config_error(section, key, "missing: a number is required", kind=MissingKeyError)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise config_error(section, key, "expected a number")
