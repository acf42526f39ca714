"""Taming Transformers, rebuilt: VQGAN tokenizers and autoregressive transformers for images (Esser et al. 2021).

`taming.<name>` is `taming.api.<name>` for each name below. It is imported when it is asked for: `import taming` alone
loads neither torch nor anything else that takes time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taming.api import (
        ConditionalSampler,
        FastSampler,
        Reconstruction,
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module("taming.api"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
