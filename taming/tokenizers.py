"""The two frozen stages of a second stage, without its transformer, with the weights that it trains on."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from taming.checkpoint import load_checkpoint, load_weights
from taming.config import SPLITS, ConfigSource, config_error, instantiate_from_config, merge_sources
from taming.data.datamodule import DataModuleFromConfig
from taming.instantiation import Keywords, get_obj_from_str
from taming.models.cond_transformer import Net2NetTransformer
from taming.runs import without_weight_files

logger = logging.getLogger(__name__)

STAGES = ("first_stage_model", "cond_stage_model")
SMALLEST = {"n_layer": 1, "n_head": 1, "n_embd": 1}


def load_tokenizers(
    config: DictConfig, checkpoint: Path | None = None, *, device: str | torch.device = "cpu"
) -> Net2NetTransformer:
    """The model of a config with the stages' weights, in eval mode on `device`; its transformer is a stand-in.

    The weights are those of `checkpoint`, a run's, or else those of the files that the config names, as in training:
    unlike for sampling, nothing about the size of the conditioning is changed. Raises ConfigError for a model that is
    no second stage, CheckpointError or FileNotFoundError for weights that cannot be loaded.
    """
    if OmegaConf.select(config, "model") is None:
        raise config_error(config, "model", "this section is missing")
    if OmegaConf.select(config, "model.params.first_stage_config") is None:
        raise config_error(config.model, "target", "no second stage: params.first_stage_config is missing")
    ignored: Sequence[str] = ()
    if checkpoint is not None:
        config = without_weight_files(config)
    elif (own := OmegaConf.select(config, "model.params.ckpt_path")) is not None:
        checkpoint, ignored = Path(own), OmegaConf.select(config, "model.params.ignore_keys") or ()
    elif OmegaConf.select(config, "model.params.first_stage_config.params.ckpt_path") is None:
        logger.warning("first_stage_config names no ckpt_path: the weights of the tokenizer are random")
    model = instantiate_from_config(_without_transformer(config).model)
    if checkpoint is not None:
        weights = load_checkpoint(checkpoint)["state_dict"]
        for stage in STAGES:
            _load_stage(model, stage, weights, checkpoint, ignored)
    return model.to(device).eval()


def _without_transformer(config: DictConfig) -> DictConfig:
    """The config with the smallest transformer of its kind and vocabulary, and without a checkpoint that fits none."""
    changes: dict[str, object] = {"ckpt_path": None}
    transformer = OmegaConf.select(config, "model.params.transformer_config.target")
    if transformer is not None and SMALLEST.keys() <= set(Keywords.of(get_obj_from_str(transformer)).names):
        changes["transformer_config"] = {"params": SMALLEST}
    stand_in = OmegaConf.create({"model": {"params": changes}})
    return merge_sources([ConfigSource("", config), ConfigSource("extraction", stand_in)])


def _load_stage(
    model: Net2NetTransformer, stage: str, weights: Mapping[str, Tensor], source: Path, ignored: Sequence[str]
) -> None:
    module = getattr(model, stage)
    kept = {key: value for key, value in weights.items() if not key.startswith(tuple(ignored))}
    own = {key.removeprefix(f"{stage}."): value for key, value in kept.items() if key.startswith(f"{stage}.")}
    if not isinstance(module, nn.Module) or not module.state_dict() or (ignored and not own):
        return
    load_weights(module, own, source=f"{source}, {stage}", strict=not ignored)


def load_data(
    config: DictConfig, splits: Sequence[str] = (), *, batch_size: int | None = None, num_workers: int | None = None
) -> DataModuleFromConfig:
    """The data of a config, of `splits` or all that it has; the others are not built.

    batch_size and num_workers are the config's if not given. Raises ConfigError for a config without data or with a
    mistake in it, ValueError for a split that it does not have.
    """
    params = OmegaConf.select(config, "data.params")
    if params is None:
        raise config_error(config, "data", "this section is missing, it says what to encode")
    configured = [split for split in SPLITS if params.get(split) is not None]
    for split in splits:
        if split not in configured:
            raise ValueError(f"split {split!r}: the config has data for {', '.join(configured) or 'none'}")
    data = DataModuleFromConfig(
        batch_size=params.get("batch_size", 1) if batch_size is None else batch_size,
        num_workers=params.get("num_workers") if num_workers is None else num_workers,
        **{split: params[split] for split in configured if not splits or split in splits},
    )
    data.setup()
    return data
