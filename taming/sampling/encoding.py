"""Batches of a data set as the second stage sees them: tokens of images and conditioning, also at another scale.

b batch, (d, h, w) latent of the first stage, (hc, wc) conditioning grid, l conditioning tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from taming.models.cond_transformer import Net2NetTransformer
from taming.models.conditioning import LAYOUTS, show_condition
from taming.modules.misc.coord import CoordStage
from taming.sampling.samples import check_second_stage


@dataclass(frozen=True)
class EncodedBatch:
    """images (b, 3, H, W); tokens int64 (b, h, w) in the permuter's order; condition int64, a grid (b, hc, wc) where it
    is spatial and a sequence (b, l) where it is not; zshape (b, d, h, w); pictures of the conditioning (b, 3, H', W'),
    if they were asked for.
    """

    images: Tensor
    tokens: Tensor
    condition: Tensor
    zshape: tuple[int, int, int, int]
    pictures: Tensor | None


def check_windowed_model(model: Net2NetTransformer) -> None:
    """Raises ValueError for a model that cannot be sampled by windows from a data set."""
    check_second_stage(model)
    if model.cond_stage_key in LAYOUTS:
        raise ValueError(
            f"this model is conditioned on {model.cond_stage_key}, layouts of objects: "
            "sample it with scripts/make_scene_samples.py"
        )
    per_position = model.first_stage_model.quantize.tokens_per_position
    if per_position != 1:
        raise ValueError(f"the first stage has {per_position} tokens per position, but windows need one")


def has_pictures(model: Net2NetTransformer) -> bool:
    """Whether the conditioning can be shown as images."""
    return model.cond_stage_key != "image" and hasattr(model.cond_stage_model, "decode")


@torch.no_grad()
def encode_batch(
    model: Net2NetTransformer, batch: Mapping, *, scale_factor: float = 1.0, pictures: bool = False
) -> EncodedBatch:
    """Encode a collated batch, images and spatial conditioning scaled bicubically by `scale_factor` before.

    `pictures` needs a model that has_pictures. Raises ValueError if the batch lacks what the model reads.
    """
    for key in (model.first_stage_key, model.cond_stage_key):
        if key not in batch:
            raise ValueError(f"the model reads {key!r}, but the data have only {', '.join(map(str, batch))}")
    x, c = (_scaled(tensor.to(model.device), scale_factor) for tensor in model.get_xc(batch))
    if isinstance(model.cond_stage_model, CoordStage):
        c = c.clamp(0.0, 1.0)  # bicubic scaling goes beyond what it is given
    quant_z, tokens = model.encode_to_z(x)
    quant_c, condition = model.encode_to_c(c)
    if quant_c.ndim == 4:
        condition = condition.view(len(condition), *quant_c.shape[2:])  # (b, l) -> (b, hc, wc)
    return EncodedBatch(
        x,
        tokens.view(len(tokens), *quant_z.shape[2:]),  # (b, l) -> (b, h, w)
        condition,
        tuple(quant_z.shape),
        _pictures(model, c, quant_c) if pictures else None,
    )


def _scaled(x: Tensor, factor: float) -> Tensor:
    """Images (b, c, h, w) larger or smaller; anything else as it is."""
    if factor == 1 or x.ndim != 4:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bicubic")


def _pictures(model: Net2NetTransformer, c: Tensor, quant_c: Tensor) -> Tensor:
    """The conditioning as images (b, 3, h, w) in [-1, 1]: label maps in colours, anything else grey if it is no RGB.

    Colours are the model's, or the same random ones every time. One by one, since they are spread over what is shown.
    """
    with isolate_rng():
        torch.manual_seed(0)
        shown = [
            show_condition(model.cond_stage_model, model.cond_stage_key, c[i : i + 1], quant_c[i : i + 1])
            for i in range(len(c))
        ]
    pictures = torch.cat([pictures["conditioning"] for pictures in shown])
    if isinstance(model.cond_stage_model, CoordStage):
        pictures = 2 * pictures - 1
    return pictures[:, :3] if pictures.shape[1] >= 3 else pictures[:, :1].expand(-1, 3, -1, -1)
