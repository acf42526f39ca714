"""Run folders on disk: finding the checkpoint and the configs that belong together, and building the model of a run."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from taming.checkpoint import CheckpointError, IncompatibleKeys, infer_config, load_checkpoint, load_weights
from taming.config import (
    ConfigError,
    ConfigSource,
    config_error,
    instantiate_from_config,
    load_config,
    merge_sources,
    read_sources,
)
from taming.weight_average import choose_weights

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDERS = ("checkpoints", "ckpts")


@dataclass(frozen=True)
class Run:
    """A trained or downloaded model: its folder, a checkpoint, and the configs of the model in merge order."""

    logdir: Path
    checkpoint: Path
    configs: list[Path]

    @property
    def name(self) -> str:
        return self.logdir.name


def resolve_run(path: str | os.PathLike) -> Run:
    """The run that `path` means: a run folder, or a checkpoint file in one.

    In a folder the checkpoint is `last.ckpt` in `checkpoints` or `ckpts`, else the newest there. The folder of a file
    is the nearest one above it that holds `configs`. Configs are `configs/*-project.yaml`, else all but
    `*-lightning.yaml`; there may be none. Raises FileNotFoundError for a path that is not there, and for a folder
    without a checkpoint.
    """
    if not str(path):
        raise FileNotFoundError("no run given: name a run folder or a checkpoint file")
    path = Path(path)
    if path.is_dir():
        logdir, checkpoint = path, _checkpoint_in(path)
    elif path.is_file():
        logdir, checkpoint = _logdir_of(path), path
    else:
        raise FileNotFoundError(f"{path}: no such run folder or checkpoint file")
    return Run(logdir, checkpoint, _configs_in(logdir))


def _checkpoint_in(logdir: Path) -> Path:
    folders = [logdir / name for name in CHECKPOINT_FOLDERS]
    for folder in folders:
        if (folder / "last.ckpt").is_file():
            return folder / "last.ckpt"
    others = [file for folder in folders for file in folder.glob("*.ckpt")]
    if not others:
        places = ", ".join(str(folder / "*.ckpt") for folder in folders)
        raise FileNotFoundError(f"{logdir}: no checkpoint in this run folder, looked for {places}")
    newest = max(others, key=lambda file: file.stat().st_mtime)
    logger.info("%s: no last.ckpt, using the newest checkpoint %s", logdir, newest)
    return newest


def _logdir_of(checkpoint: Path) -> Path:
    parents = Path(os.path.abspath(checkpoint)).parents
    below_logs = [parent for parent in parents if "logs" in parent.parts[:-1]]
    with_configs = [parent for parent in below_logs or parents if (parent / "configs").is_dir()]
    in_logs = [parent for parent in below_logs if parent.parent.name == "logs"]
    in_run = [parents[1]] if parents[0].name in CHECKPOINT_FOLDERS else []
    return _as_written(checkpoint, [*with_configs, *in_logs, *in_run, parents[0]][0])


def _as_written(checkpoint: Path, folder: Path) -> Path:
    """`folder`, which is above `checkpoint`, relative if the checkpoint's path is and reaches that far."""
    return next((parent for parent in checkpoint.parents if parent.absolute() == folder), folder)


def _configs_in(logdir: Path) -> list[Path]:
    files = sorted((logdir / "configs").glob("*.yaml"))
    project = [file for file in files if file.stem.endswith("-project")]
    return project or [file for file in files if not file.stem.endswith("-lightning")]


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, its merged config, and what loading it took.

    global_step is the checkpoint's (0 without one); edits are the changes made to the config, ready to be shown; keys
    are those that model and checkpoint do not share.
    """

    model: nn.Module
    config: DictConfig
    global_step: int
    edits: list[str]
    keys: IncompatibleKeys


def load_run_config(
    run: Run,
    *,
    bases: Sequence[str | os.PathLike] = (),
    overrides: Sequence[str] = (),
    ignore_base_data: bool = False,
) -> DictConfig:
    """The config of a run under more files and overrides.

    Without any file it is inferred from the weights of a first stage. Raises ConfigError if that cannot be done.
    """
    if not run.configs and not bases:
        return merge_sources([_inferred(run), *read_sources([], overrides)])
    return load_config([*run.configs, *bases], overrides, ignore_base_data=ignore_base_data)


def _inferred(run: Run) -> ConfigSource:
    place = run.logdir / "configs" / "*.yaml"
    try:
        model = infer_config(run.checkpoint)
    except CheckpointError as error:
        raise ConfigError(
            f"{run.logdir}: no config of this run, looked for {place}; nor can one be inferred: {error}"
        ) from error
    logger.info("no config %s: inferred from the weights that this is a %s", place, model["target"])
    return ConfigSource(f"inferred from {run.checkpoint}", OmegaConf.create({"model": model}))


def load_model(
    run: Run,
    *,
    bases: Sequence[str | os.PathLike] = (),
    overrides: Sequence[str] = (),
    device: str | torch.device = "cpu",
    trained_weights: bool = False,
) -> LoadedModel:
    """The model of a run with its weights, in eval mode on `device`; see `build_model` for trained_weights.

    Raises ConfigError, CheckpointError or FileNotFoundError; also if weights that inference needs are missing.
    """
    config = load_run_config(run, bases=bases, overrides=overrides)
    return build_model(config, run.checkpoint, device=device, trained_weights=trained_weights)


def build_model(
    config: DictConfig,
    checkpoint: Path | None = None,
    *,
    device: str | torch.device = "cpu",
    trained_weights: bool = False,
) -> LoadedModel:
    """The model that `config.model` describes, in eval mode on `device`, with the weights of `checkpoint`.

    All weights come from the checkpoint: what the config says about other files to start from is overridden. Without a
    checkpoint the weights are random. Of a run that averaged its weights it is the average, or with trained_weights
    what its last step left.
    """
    if OmegaConf.select(config, "model") is None:
        raise config_error(config, "model", "this section is missing")
    changed, messages = _edited(config, chain(_weight_files(config.model), _downsampling(config.model)))
    model = instantiate_from_config(changed.model)
    step, keys = 0, IncompatibleKeys([], [])
    if checkpoint is None:
        logger.warning("no checkpoint: the weights of the model are random")
    else:
        content = load_checkpoint(checkpoint)
        step = content["global_step"]
        weights = choose_weights(content, checkpoint, trained=trained_weights)
        keys = load_weights(model, weights, source=checkpoint, strict=True)
    return LoadedModel(model.to(device).eval(), config, step, messages, keys)


def without_weight_files(config: DictConfig) -> DictConfig:
    """The config for a model that gets all its weights from a checkpoint: no other file is named to start from."""
    return _edited(config, _weight_files(config.model))[0]


def _edited(config: DictConfig, edits: Iterable[tuple[str, object]]) -> tuple[DictConfig, list[str]]:
    """A copy of the config with parameters of the model changed, and what there is to say about it; it is logged."""
    changes = OmegaConf.create()
    messages = []
    for key, value in edits:
        OmegaConf.update(changes, f"model.params.{key}", value)
        messages.append(f"model.params.{key} is set to {'null' if value is None else value}")
        logger.info("%s", messages[-1])
    return merge_sources([ConfigSource("", config), ConfigSource("loading", changes)]), messages


def _weight_files(model: DictConfig) -> Iterator[tuple[str, object]]:
    """Parameters of the model that name files with weights of it or of its stages -> null."""
    if OmegaConf.select(model, "params.ckpt_path") is not None:
        yield "ckpt_path", None
    for stage in ("first_stage_config", "cond_stage_config"):
        config = OmegaConf.select(model, f"params.{stage}")  # may be a marker such as __is_first_stage__
        if isinstance(config, DictConfig) and OmegaConf.select(config, "params.ckpt_path") is not None:
            yield f"{stage}.params.ckpt_path", None


def _downsampling(model: DictConfig) -> Iterator[tuple[str, object]]:
    """Parameters for sampling larger images than in training: their conditioning is halved, not resized."""
    if "downsample_cond_size" in (model.get("params") or {}):
        yield "downsample_cond_size", -1
        yield "downsample_cond_factor", 0.5
