"""From a target config, `{target: dotted.path, params: {...}}`, to the object that it describes.

Nested target configs in `params` reach the constructor as OmegaConf nodes, and the constructor instantiates them. A
node knows its place in the whole configuration, so that an error deep inside still names the full key.
"""

import ast
import importlib
import inspect
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from taming.config_errors import (
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

logger = logging.getLogger(__name__)

TARGET_KEYS = ("target", "params")

MAIN_EXPORTS = {
    "main.DataModuleFromConfig": "taming.data.datamodule.DataModuleFromConfig",
    "main.WrappedDataset": "taming.data.datamodule.WrappedDataset",
    "main.SetupCallback": "taming.training.callbacks.SetupCallback",
    "main.ImageLogger": "taming.training.callbacks.ImageLogger",
    "main.LearningRateMonitor": "taming.training.callbacks.LearningRateMonitor",
    "main.instantiate_from_config": "taming.config.instantiate_from_config",
    "main.get_obj_from_str": "taming.config.get_obj_from_str",
    "main.get_parser": "taming.training.fit.get_parser",
    "main.nondefault_trainer_args": "taming.training.fit.nondefault_trainer_args",
}
"""What configs name by the command's module -> its home; `main` itself is never imported, so any folder will do."""

DEAD_TARGETS = {
    "cutlit.DataModuleFromConfig": "taming.data.datamodule.DataModuleFromConfig",
    "pytorch_lightning.loggers.TestTubeLogger": "pytorch_lightning.loggers.TensorBoardLogger",
    "pytorch_lightning.loggers.test_tube.TestTubeLogger": "pytorch_lightning.loggers.TensorBoardLogger",
    "pytorch_lightning.logging.TestTubeLogger": "pytorch_lightning.loggers.TensorBoardLogger",
    "pytorch_lightning.callbacks.LearningRateLogger": "pytorch_lightning.callbacks.LearningRateMonitor",
    "pytorch_lightning.callbacks.GPUStatsMonitor": "pytorch_lightning.callbacks.DeviceStatsMonitor",
    "pytorch_lightning.callbacks.XLAStatsMonitor": "pytorch_lightning.callbacks.DeviceStatsMonitor",
    "pytorch_lightning.profiler.SimpleProfiler": "pytorch_lightning.profilers.SimpleProfiler",
    "pytorch_lightning.profiler.AdvancedProfiler": "pytorch_lightning.profilers.AdvancedProfiler",
    "pytorch_lightning.profiler.PyTorchProfiler": "pytorch_lightning.profilers.PyTorchProfiler",
    "taming.callbacks.GradientNorm": "taming.training.callbacks.GradientNorm",
}
"""Targets of old configs that no longer exist -> what takes their place."""

LATENT_DIFFUSION = {
    "ldm.models.autoencoder.VQModel": "taming.models.vqgan.VQModel",
    "ldm.models.autoencoder.VQModelInterface": "taming.models.vqgan.VQModel",
    "ldm.modules.losses.vqperceptual.DummyLoss": "taming.modules.losses.DummyLoss",
    "ldm.modules.losses.vqperceptual.VQLPIPSWithDiscriminator": (
        "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
    ),
}
"""Targets of latent diffusion's first stages -> ours, which read the same weights."""

ALIASES = MAIN_EXPORTS | DEAD_TARGETS | LATENT_DIFFUSION

REFUSED = "refused:"
"""Put before what a config may not name, see `taming.trusted_targets`; no dotted path begins like that."""


def get_obj_from_str(string: str, reload: bool = False) -> Any:
    """The object at a dotted path, `package.module.name`; with `reload` its module is executed again first.

    Names that configs use for objects elsewhere (`main.ImageLogger`) and those of classes that moved are translated.
    Raises ConfigError if there is no such module or name; an error while the module is imported is left as it is.
    """
    if string.startswith(REFUSED):
        raise ConfigError(
            "this config came with a downloaded model, so it may only name classes of taming, torch.nn, torch.optim, "
            "and Lightning's callbacks and loggers; if you trust it, name it on the command line or in your own config"
        )
    target = canonical_target(string)
    module_name, _, name = target.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{string!r} is not the dotted path of a class, such as taming.models.vqgan.VQModel")
    module = _import(module_name, target)
    if reload:
        module = importlib.reload(module)
    if not hasattr(module, name):
        raise ConfigError(f"module {module_name} has no {name}{_other_target(target, module)}")
    return getattr(module, name)


def canonical_target(target: str) -> str:
    """Where the object that a config names `target` lives today."""
    if target in DEAD_TARGETS:
        _notice_dead_target(target)
    return ALIASES.get(target, target)


@cache
def _notice_dead_target(target: str) -> None:
    logger.info("%s no longer exists: using %s", target, DEAD_TARGETS[target])


def _import(module_name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists and misses another one
        raise ConfigError(f"there is no module {error.name}{_other_target(target)}") from None


def _other_target(target: str, module: ModuleType | None = None) -> str:
    """What `target` may have been meant to be: its name in another module, or the nearest name here or anywhere."""
    name = target.rpartition(".")[2]
    known = (*library_targets(), *MAIN_EXPORTS)
    namesakes = [other for other in known if other.rpartition(".")[2] == name]
    here = [attribute for attribute in vars(module) if not attribute.startswith("_")] if module else []
    if namesakes:
        near = nearest(target, namesakes, limit=len(target))
    elif attribute := nearest(name, here):
        near = f"{module.__name__}.{attribute}"
    else:
        near = nearest(target, known)
    return f"; did you mean {near}?" if near else ""


@cache
def library_targets() -> tuple[str, ...]:
    """Dotted paths of this library's public classes and functions, from its source: nothing is imported."""
    package = Path(__file__).parent
    targets = []
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        if "._" in module:
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                targets.append(f"{module}.{node.name}")
    return tuple(targets)


@dataclass(frozen=True)
class Keywords:
    """What a callable takes by name.

    names: its parameters, and those of base classes that its **kwargs may reach. required: those of its own without a
    default. swallows: it accepts any other name too.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    swallows: bool

    @classmethod
    def of(cls, callable_: Callable) -> "Keywords":
        """Read the signature; for a class that of its constructor, and while there is **kwargs of the next in line."""
        signatures = _signatures(callable_)
        names: dict[str, bool] = {}  # name -> whether it is required
        swallows = True
        for parameters in signatures:
            own = parameters is signatures[0]
            by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            names |= {p.name: own and p.default is p.empty for p in by_name if p.name not in names}
            swallows = any(p.kind is p.VAR_KEYWORD for p in parameters)
            if not swallows:
                break
        return cls(tuple(names), tuple(name for name in names if names[name]), swallows)


def _signatures(callable_: Callable) -> list[list[inspect.Parameter]]:
    """Parameters of a function, or of each constructor along a class's method resolution order, without `self`."""
    constructors = []
    if inspect.isclass(callable_):
        constructors = [vars(base)["__init__"] for base in callable_.__mro__[:-1] if "__init__" in vars(base)]
    try:
        if not constructors:
            return [list(inspect.signature(callable_).parameters.values())]
        return [list(inspect.signature(constructor).parameters.values())[1:] for constructor in constructors]
    except ValueError:  # written in C, without a signature
        return []


def check_keywords(callable_: Callable, keywords: Mapping[str, Any], where: str = "") -> None:
    """Raise ConfigError if `callable_(**keywords)` misses a required parameter or gets one that it does not have.

    For a callable that swallows unknown names (`**ignored`) only those that look like a slip for one of its own are
    errors. `where` is the key of `keywords`, for the message if it is a plain dict.
    """
    accepted = Keywords.of(callable_)
    for name in map(str, keywords):
        limit = typo_limit(name) if accepted.swallows else None
        if name in accepted.names or (accepted.swallows and nearest(name, accepted.names, limit=limit) is None):
            continue
        problem = f"{_name(callable_)} has no such parameter{suggestion(name, accepted.names, limit=limit)}"
        raise config_error(keywords, name, problem, where=where)
    for name in accepted.required:
        if name not in keywords:  # a node does not count OmegaConf's ??? as a value
            raise _missing(callable_, keywords, name, where)


def _missing(callable_: Callable, keywords: Mapping[str, Any], name: str, where: str = "") -> ConfigError:
    problem = f"missing, but {_name(callable_)} requires it"
    return config_error(keywords, name, problem, where=where, kind=MissingKeyError)


def _name(callable_: Callable) -> str:
    return getattr(callable_, "__name__", repr(callable_))


def instantiate_from_config(config: Mapping[str, Any], *, where: str = "") -> Any:
    """Call `target` with `params` as keywords (an empty `params:` means none).

    Raises ConfigError for a mistake in `config`, before the call where the signature shows it. A ValueError or
    FileNotFoundError of the constructor is raised again as a ConfigError that names the section, or the key that holds
    the file's name. Other exceptions pass unchanged. `where` is the full key of `config`, for the message if it is a
    plain dict.
    """
    callable_ = check_target(config, where=where)
    params, params_where = _params(config), key_path(config, "params", where=where)
    try:
        return callable_(**{name: _as_node(value) for name, value in params.items()})
    except TypeError as error:
        if name := _unset_parameter(error, callable_, params):
            raise _missing(callable_, params, name, params_where) from error
        raise
    except (ValueError, FileNotFoundError, OmegaConfBaseException) as error:
        path = key_path(config, where=where)
        if isinstance(error, ConfigError) and (error.key or "").startswith(path):
            raise
        raise _located(error, config, path) from error


def check_target(config: Mapping[str, Any], *, where: str = "") -> Callable:
    """The callable that a target config names, once its parameters are known to fit; raises ConfigError."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"{f'{where}: ' if where else ''}expected a mapping with target and params, got {config!r}")
    for name in map(str, config):
        if name not in TARGET_KEYS and nearest(name, TARGET_KEYS, limit=typo_limit(name)):
            raise config_error(config, name, f"unknown key{suggestion(name, TARGET_KEYS)}", where=where)
    if config.get("target") is None:
        raise config_error(config, "target", "missing: the dotted path of a class", where=where, kind=MissingKeyError)
    try:
        callable_ = get_obj_from_str(str(config["target"]))
    except ConfigError as error:
        raise config_error(config, "target", str(error), where=where) from None
    if not callable(callable_):
        raise config_error(config, "target", "neither a class nor a function", where=where)
    if not isinstance(_params(config), Mapping):
        raise config_error(config, "params", "expected a mapping of parameters", where=where)
    check_keywords(callable_, _params(config), key_path(config, "params", where=where))
    return callable_


def _params(config: Mapping[str, Any]) -> Any:
    params = config.get("params")
    if params is None:
        return DictConfig({}, key="params", parent=config) if isinstance(config, DictConfig) else {}
    return params


def _as_node(value: Any) -> Any:
    """Sections reach constructors as OmegaConf nodes, also those of plain dicts."""
    return OmegaConf.create(value, flags={"allow_objects": True}) if isinstance(value, dict | list) else value


def _unset_parameter(error: TypeError, callable_: Callable, params: Mapping[str, Any]) -> str | None:
    """The parameter without which a constructor of the class (or of a base that gets its **kwargs) failed."""
    failed = re.match(r"(\S+)\.__init__\(\) missing", str(error))
    if not failed or failed[1] not in {base.__qualname__ for base in getattr(callable_, "__mro__", ())}:
        return None
    unset = [name for name in Keywords.of(callable_).names if name not in params]
    return next((name for name in unset if f"'{name}'" in str(error)), None)


def _located(error: Exception, config: Mapping[str, Any], path: str) -> ConfigError:
    """The constructor's error with the key of the section, or of the file name that led to nothing."""
    kind = ConfigError
    if isinstance(error, FileNotFoundError):
        kind = ConfiguredFileNotFoundError
        if named := _named_in(str(error), _params(config), f"{path}.params"):
            section, key, where = named
            return config_error(section, key, f"not found ({one_line(error)})", where=where, kind=kind)
    return kind(": ".join(part for part in (source_of(config), path, one_line(error)) if part), key=path)


def _named_in(message: str, params: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], str, str] | None:
    """(section, key, full key of the section) of the longest path among the values that `message` mentions."""
    found = []
    for key, value in params.items():
        if isinstance(value, Mapping):
            found.append(_named_in(message, value, f"{where}.{key}"))
        elif isinstance(value, str) and re.search(r"[/\\.]", value) and value in message:
            found.append((params, key, where))
    return max(filter(None, found), key=lambda place: len(place[0][place[1]]), default=None)
