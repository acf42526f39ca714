"""Models without a YAML file: the published architectures by name, and whatever lies in a run folder."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from taming import runs
from taming.cli import select_device
from taming.config import ConfigSource, instantiate_from_config, merge_sources
from taming.models.first_stage import convert_weights
from taming.pretrained import fetch
from taming.published import PublishedModel, models_by_name, published
from taming.trusted_targets import restricted

Source = str | os.PathLike
"""A run folder or a checkpoint file."""


def load_model(
    source: Source,
    *,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    trained_weights: bool = False,
) -> nn.Module:
    """The model of a run folder or a checkpoint file in one, with its weights, in eval mode.

    `source` may also be the name of a published model, which is downloaded where an address is known. Without any
    config, that of a first stage is inferred from its weights. device "auto" is CUDA, else MPS, else the CPU; dtype is
    what floating-point weights become, but for those of codebooks, which keep 32 bits; in 16 bits some per cent of the
    codes of images change. trained_weights chooses, of a run that averaged its weights, those of its last step.

    Raises FileNotFoundError for a path that is not there, ValueError (ConfigError, CheckpointError) for configs and
    checkpoints that are wrong, and for a device that this machine does not have.
    """
    device = select_device(str(device))
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype}: weights need a floating-point type, such as torch.bfloat16")
    if os.fspath(source) in models_by_name() and not Path(source).exists():
        model = build_published(os.fspath(source), pretrained=True)
    else:
        model = runs.load_model(runs.resolve_run(source), trained_weights=trained_weights).model
    return (model if dtype is None else convert_weights(model, dtype)).to(device)


def build_published(name: str, pretrained: bool | Source = False, overrides: Mapping | None = None) -> nn.Module:
    """A published model on the CPU in eval mode; see a factory for its arguments.

    A config that lies beside the weights takes the place of the built-in one, and may name only what
    `taming.trusted_targets` allows; overrides go over either and may name anything.
    """
    model = published(name)
    if pretrained is False:
        return instantiate_from_config(_config(model, None, overrides).model).eval()
    run = runs.resolve_run(fetch(model.name) if pretrained is True else pretrained)
    return runs.build_model(_config(model, run, overrides), run.checkpoint).model


def _config(model: PublishedModel, run: runs.Run | None, overrides: Mapping | None) -> DictConfig:
    if run and run.configs:
        known = restricted(runs.load_run_config(run), run.logdir)
    else:
        known = OmegaConf.create({"model": model.config()})
    changes = OmegaConf.create({"model": {"params": dict(overrides or {})}})
    return merge_sources([ConfigSource(model.name, known), ConfigSource(f"{model.name}()", changes)])


def _factory(name: str) -> Callable[..., nn.Module]:
    model = published(name)

    def factory(pretrained: bool | Source = False, **overrides: object) -> nn.Module:
        return build_published(name, pretrained, overrides)

    factory.__name__ = factory.__qualname__ = name
    factory.__doc__ = f"""The {model.kind} {model.name} ({model.description}), on the CPU, in eval mode.

    pretrained: False for random weights; True for the published ones, looked for in $TAMING_MODELS/{model.folder},
    logs/{model.folder} and ~/.cache/taming/{model.folder}, then downloaded where an address is known; or the run folder
    or checkpoint that has them. overrides change parameters of the model, nested mappings key by key.

    Raises ValueError for a parameter that the model does not have and for weights that do not fit, FileNotFoundError
    where there are no weights, with the page and the place for them.
    """
    return factory


vqgan_imagenet_f16_1024 = _factory("vqgan_imagenet_f16_1024")
vqgan_imagenet_f16_16384 = _factory("vqgan_imagenet_f16_16384")
vqgan_gumbel_f8 = vqgan_gumbel_openimages_f8 = _factory("vqgan_gumbel_f8")
vqgan_openimages_f8_256 = _factory("vqgan_openimages_f8_256")
vqgan_openimages_f8_16384 = _factory("vqgan_openimages_f8_16384")
s_flckr_transformer = _factory("s_flckr_transformer")
drin_transformer = _factory("drin_transformer")
celebahq_transformer = _factory("celebahq_transformer")
ffhq_transformer = _factory("ffhq_transformer")
faceshq_transformer = _factory("faceshq_transformer")
cin_transformer = _factory("cin_transformer")
ade20k_transformer = _factory("ade20k_transformer")
coco_transformer = _factory("coco_transformer")
