"""What the names and shapes of a model's weights say about the config that it was built from.

A fact is a key of the model's parameters (`ddconfig.ch_mult`) with its value, or `target`; only what the weights show
is among the facts. Some say less than the config: attention counts by level, `remap` by its number of codes.
Shared by the reports about checkpoints that do not fit and by the inference of configs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

VQMODEL = "taming.models.vqgan.VQModel"
GUMBELVQ = "taming.models.vqgan.GumbelVQ"
EMAVQ = "taming.models.vqgan.EMAVQ"
GAN_LOSS = "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator"
PERCEPTUAL_LOSS = "taming.modules.losses.vqperceptual.VQLPIPS"
NO_LOSS = "taming.modules.losses.DummyLoss"
GPT = "taming.modules.transformer.mingpt.GPT"
CODE_GPT = "taming.modules.transformer.mingpt.CodeGPT"

ATTENTION = "ddconfig.attn_resolutions"
N_LABELS = "n_labels or colorize_nlabels"
"""The number of labels has another name in VQSegmentationModel than in its relatives."""


def shapes_of(weights: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Shapes of the weights whose names begin with `prefix`, by the rest of the name."""
    return {
        key.removeprefix(prefix): tuple(value.shape)
        for key, value in weights.items()
        if key.startswith(prefix) and isinstance(value, Tensor)
    }


def model_facts(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a model of any kind, by the key in its config: `first_stage_config.params.n_embed`."""
    shapes = shapes_of(weights)
    facts = {**first_stage_facts(shapes), **transformer_facts(shapes)}
    for prefix, section, part_facts in (
        ("first_stage_model.", "first_stage_config", first_stage_facts),
        ("cond_stage_model.", "cond_stage_config", first_stage_facts),
        ("transformer.", "transformer_config", transformer_facts),
    ):
        for key, value in part_facts(shapes_of(weights, prefix)).items():
            facts[f"{section}.{key}" if key == "target" else f"{section}.params.{key}"] = value
    if any(key.startswith("transformer.") for key in shapes):
        has_stage = any(key.startswith("cond_stage_model.") for key in shapes)
        facts["cond_stage_config"] = "one with weights" if has_stage else "none with weights"
        facts["permuter_config"] = _axis(shapes, "permuter.forward_shuffle_idx", 0) or "none"
    return facts


def first_stage_facts(shapes: Shapes) -> dict[str, Any]:
    """The facts of a VQModel or one of its relatives."""
    facts = {**_network_facts(shapes), **_codebook_facts(shapes), N_LABELS: _axis(shapes, "colorize", 1)}
    if "encoder.conv_in.weight" in shapes:
        facts |= _loss_facts(shapes)
    return {key: value for key, value in facts.items() if value is not None}


def _network_facts(shapes: Shapes) -> dict[str, Any]:
    ch = _axis(shapes, "encoder.conv_in.weight", 0)
    z_channels = _axis(shapes, "decoder.conv_in.weight", 1) or _axis(shapes, "post_quant_conv.weight", 0)
    encoder_out = _axis(shapes, "encoder.conv_out.weight", 0)
    facts: dict[str, Any] = {
        "ddconfig.ch": ch,
        "ddconfig.in_channels": _axis(shapes, "encoder.conv_in.weight", 1),
        "ddconfig.out_ch": _axis(shapes, "decoder.conv_out.weight", 0),
        "ddconfig.z_channels": z_channels or encoder_out,
        "ddconfig.double_z": None if not z_channels or not encoder_out else encoder_out == 2 * z_channels,
    }
    levels = list(_widths(shapes))
    if ch and levels and all(width and width % ch == 0 for width in levels):
        facts["ddconfig.ch_mult"] = [width // ch for width in levels]
        facts["ddconfig.num_res_blocks"] = _count(shapes, "encoder.down.0.block")
        facts[ATTENTION] = [i for i in range(len(levels)) if f"encoder.down.{i}.attn.0.q.weight" in shapes]
    if len(levels) > 1:
        facts["ddconfig.resamp_with_conv"] = "encoder.down.0.downsample.conv.weight" in shapes
    return facts


def _widths(shapes: Shapes) -> Iterator[int | None]:
    """Channels of each level of the encoder."""
    for level in range(_count(shapes, "encoder.down")):
        yield _axis(shapes, f"encoder.down.{level}.block.0.conv1.weight", 0)


def _codebook_facts(shapes: Shapes) -> dict[str, Any]:
    if not any(key.startswith("quantize.") for key in shapes):
        return {}
    target, codebook = None, "quantize.embedding.weight"
    if "quantize.embed.weight" in shapes and "quantize.proj.weight" in shapes:
        target, codebook = GUMBELVQ, "quantize.embed.weight"
    elif codebook in shapes:
        target = EMAVQ if "quantize.embedding.cluster_size" in shapes else VQMODEL
    return {
        "target": target,
        "n_embed": _axis(shapes, codebook, 0),
        "embed_dim": _axis(shapes, codebook, 1) or _axis(shapes, "quant_conv.weight", 0),
        "remap": _axis(shapes, "quantize.used", 0) or "none",
        "quantizer_config": "none" if target else "one",
    }


def _loss_facts(shapes: Shapes) -> dict[str, Any]:
    prefix = "loss.discriminator.main."
    layers = [key for key, shape in shapes.items() if key.startswith(prefix) and len(shape) == 4]
    convolutions = [key for key in layers if key.endswith(".weight")]
    if not convolutions:
        perceptual = any(key.startswith("loss.perceptual_loss.") for key in shapes)
        return {"lossconfig.target": PERCEPTUAL_LOSS if perceptual else NO_LOSS}
    return {
        "lossconfig.target": GAN_LOSS,
        "lossconfig.params.disc_num_layers": len(convolutions) - 2,  # the first and the last come on top
        "lossconfig.params.disc_ndf": _axis(shapes, f"{prefix}0.weight", 0),
        "lossconfig.params.disc_in_channels": _axis(shapes, f"{prefix}0.weight", 1),
        "lossconfig.params.use_actnorm": any(key.endswith(".loc") for key in layers),
    }


def transformer_facts(shapes: Shapes) -> dict[str, Any]:
    """The facts of a GPT."""
    if "tok_emb.weight" not in shapes or "pos_emb" not in shapes:
        return {}
    linear = "tok_emb.bias" in shapes
    facts = {
        "target": CODE_GPT if linear else GPT,
        "in_channels": _axis(shapes, "tok_emb.weight", 1) if linear else None,
        "vocab_size": _axis(shapes, "head.weight", 0) or _axis(shapes, "tok_emb.weight", 0),
        "n_embd": _axis(shapes, "pos_emb", 2),
        "block_size": _axis(shapes, "pos_emb", 1),
        "n_layer": _count(shapes, "blocks"),
    }
    return {key: value for key, value in facts.items() if value is not None}


def _axis(shapes: Shapes, key: str, axis: int) -> int | None:
    shape = shapes.get(key, ())
    return shape[axis] if axis < len(shape) else None


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered modules there are under `prefix`."""
    return len({key[len(prefix) + 1 :].split(".")[0] for key in shapes if key.startswith(f"{prefix}.")})
