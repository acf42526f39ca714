"""The Python front: models by name or from a run folder, and objects that reconstruct and sample.

>>> import taming, torch
>>> small = {"ch": 8, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": 32}
>>> model = taming.vqgan_imagenet_f16_1024(n_embed=64, ddconfig=small)  # the architecture, smaller; random weights
>>> codes = model.tokenize(torch.zeros(1, 3, 32, 48))
>>> codes.shape, codes.dtype
(torch.Size([1, 8, 12]), torch.int64)
>>> model.detokenize(codes).shape
torch.Size([1, 3, 32, 48])

`taming.vqgan_imagenet_f16_1024(pretrained=True)` has the published weights, `taming.load_model("logs/<run>")` those of
a training run. All names here are those of `taming` itself.
"""

from taming.api.conditional import ConditionalSampler
from taming.api.fast import FastSampler
from taming.api.models import (
    ade20k_transformer,
    celebahq_transformer,
    cin_transformer,
    coco_transformer,
    drin_transformer,
    faceshq_transformer,
    ffhq_transformer,
    load_model,
    s_flckr_transformer,
    vqgan_gumbel_f8,
    vqgan_gumbel_openimages_f8,
    vqgan_imagenet_f16_1024,
    vqgan_imagenet_f16_16384,
    vqgan_openimages_f8_256,
    vqgan_openimages_f8_16384,
)
from taming.api.reconstruction import Reconstruction

__all__ = [
    "ConditionalSampler",
    "FastSampler",
    "Reconstruction",
    "ade20k_transformer",
    "celebahq_transformer",
    "cin_transformer",
    "coco_transformer",
    "drin_transformer",
    "faceshq_transformer",
    "ffhq_transformer",
    "load_model",
    "s_flckr_transformer",
    "vqgan_gumbel_f8",
    "vqgan_gumbel_openimages_f8",
    "vqgan_imagenet_f16_1024",
    "vqgan_imagenet_f16_16384",
    "vqgan_openimages_f8_256",
    "vqgan_openimages_f8_16384",
]
