"""The config of a first stage from its weights alone."""

import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor

from taming.checkpoint_fit import CheckpointError, summary
from taming.weight_facts import (
    ATTENTION,
    GAN_LOSS,
    GUMBELVQ,
    NO_LOSS,
    PERCEPTUAL_LOSS,
    VQMODEL,
    Shapes,
    first_stage_facts,
    shapes_of,
)

SEGMENTATION_MODEL = "taming.models.vqgan.VQSegmentationModel"
NO_DISCRIMINATOR_MODEL = "taming.models.vqgan.VQNoDiscModel"
SEGMENTATION_LOSS = "taming.modules.losses.segmentation.BCELossWithQuant"
MOST_IMAGE_CHANNELS = 4
"""What has more is a label map."""

PUBLISHED_SCHEDULE = {
    "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
    "params": {"warm_up_steps": 0, "max_decay_steps": 1000001, "lr_start": 0.9, "lr_max": 0.9, "lr_min": 1e-6},
}
"""Temperatures of the published GumbelVQ."""

REQUIRED = {
    "target": "quantize",
    "n_embed": "quantize",
    "embed_dim": "quant_conv",
    "ddconfig.ch": "encoder.conv_in",
    "ddconfig.ch_mult": "encoder.down",
    "ddconfig.double_z": "encoder.conv_out or decoder.conv_in",
    "ddconfig.out_ch": "decoder.conv_out",
}
"""Facts without which there is no config -> the weights that show them."""


def first_stage_config(
    weights: Mapping[str, Tensor],
    *,
    source: str | os.PathLike,
    part: str = "",
    resolution: int = 256,
    remap: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """The target config of the first stage whose weights are `part` of a state dict: see `checkpoint.infer_config`."""
    shapes = shapes_of(weights, f"{part}." if part else "")
    facts = first_stage_facts(shapes)
    _check_complete(facts, shapes, weights, source=source, part=part)
    lowest = 2 ** (len(facts["ddconfig.ch_mult"]) - 1)
    if resolution < lowest:
        raise ValueError(f"resolution={resolution}: this model makes images {lowest} times smaller, give at least that")
    params = {"ddconfig": _ddconfig(facts, resolution), "n_embed": facts["n_embed"], "embed_dim": facts["embed_dim"]}
    if facts["remap"] != "none":
        params["remap"] = _remap(facts, source=source, remap=remap)
    return _with_loss(facts["target"], params, facts, shapes)


def _check_complete(
    facts: Mapping[str, Any], shapes: Shapes, weights: Mapping[str, Tensor], *, source: str | os.PathLike, part: str
) -> None:
    where = f"{source}: part {part}" if part else f"{source}:"
    if facts.get("quantizer_config") == "one":
        held = summary(key for key in shapes if key.startswith("quantize."))
        raise CheckpointError(f"{where} has a quantizer that the weights do not tell enough about ({held})")
    missing = [place for fact, place in REQUIRED.items() if fact not in facts]
    if len(missing) == len(REQUIRED):
        parts = [key.removesuffix(".quant_conv.weight") for key in weights if key.endswith(".quant_conv.weight")]
        advice = f"; give part={' or '.join(parts)}" if parts and not part else ""
        raise CheckpointError(f"{where} holds no first stage, but {summary(shapes or weights)}{advice}")
    if "target" not in facts and "ddconfig.double_z" in facts:
        raise CheckpointError(f"{where} has no codebook (quantize.*), so it is no first stage of discrete codes")
    if missing:
        raise CheckpointError(f"{where} holds no complete first stage: no weights of {', '.join(missing)}")


def _ddconfig(facts: Mapping[str, Any], resolution: int) -> dict[str, Any]:
    config = {
        "double_z": facts["ddconfig.double_z"],
        "z_channels": facts["ddconfig.z_channels"],
        "resolution": resolution,
        "in_channels": facts["ddconfig.in_channels"],
        "out_ch": facts["ddconfig.out_ch"],
        "ch": facts["ddconfig.ch"],
        "ch_mult": facts["ddconfig.ch_mult"],
        "num_res_blocks": facts["ddconfig.num_res_blocks"],
        "attn_resolutions": [resolution // 2**level for level in facts[ATTENTION]],
        "dropout": 0.0,
    }
    if not facts.get("ddconfig.resamp_with_conv", True):
        config["resamp_with_conv"] = False
    return config


def _remap(facts: Mapping[str, Any], *, source: str | os.PathLike, remap: str | os.PathLike | None) -> str:
    if remap is None:
        raise CheckpointError(
            f"{source}: quantize.used keeps {facts['remap']} of {facts['n_embed']} codes: the config must name a file "
            f"with their numbers; write that tensor with numpy.save and give the file as remap"
        )
    return os.fspath(remap)


def _with_loss(target: str, params: dict[str, Any], facts: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The target config, its class and loss chosen by the weights of a loss and of a palette."""
    loss, labels = facts["lossconfig.target"], _labels(shapes)
    if loss == NO_LOSS and target == VQMODEL and (labels or facts["ddconfig.in_channels"] > MOST_IMAGE_CHANNELS):
        target, loss = SEGMENTATION_MODEL, SEGMENTATION_LOSS
        params["n_labels"] = labels or facts["ddconfig.in_channels"]
    elif labels:
        params["colorize_nlabels"] = labels
    if labels or target == SEGMENTATION_MODEL:
        params["image_key"] = "segmentation"
    if loss == PERCEPTUAL_LOSS and target == VQMODEL:
        target = NO_DISCRIMINATOR_MODEL
    if target == GUMBELVQ:
        params["temperature_scheduler_config"] = deepcopy(PUBLISHED_SCHEDULE)
    params["lossconfig"] = {"target": loss}
    if loss == GAN_LOSS:
        start = "auto" if any(key.startswith("loss.auto_start.") for key in shapes) else 0
        params["lossconfig"]["params"] = {"disc_start": start, **_discriminator(facts)}
    return {"target": target, "params": params}


def _labels(shapes: Shapes) -> int | None:
    return shapes["colorize"][1] if "colorize" in shapes else None


def _discriminator(facts: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "lossconfig.params."
    return {key.removeprefix(prefix): value for key, value in facts.items() if key.startswith(prefix)}
