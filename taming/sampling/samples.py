"""Samples of unconditional and class-conditional transformers as tensors.

b batch, (d, h, w) latent of the first stage, l tokens per image.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice

import torch
from torch import Tensor, nn

from taming.cli import PRECISIONS, autocast
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.decode import Decoder, Guidance, Key, sample_uniforms


def check_second_stage(model: nn.Module) -> None:
    """Raises ValueError for a model that is no transformer over the codes of a first stage."""
    if not isinstance(model, Net2NetTransformer):
        raise ValueError(f"this run is a {type(model).__name__}, which has no transformer to sample from")


def latent_shape(
    model: Net2NetTransformer,
    *,
    steps: int | None = None,
    z_height: int | None = None,
    z_width: int | None = None,
    dim_z: int | None = None,
) -> tuple[int, int, int]:
    """(d, h, w) of one sample: the model's own where nothing else is asked for.

    Raises ValueError if steps is not the number of tokens, dim_z is not the codebook's, or the transformer cannot read
    so many tokens.
    """
    check_second_stage(model)
    encoder, codebook_dim = model.first_stage_model.encoder, model.first_stage_model.quantize.e_dim
    side = encoder.resolution // 2 ** (encoder.num_resolutions - 1)
    height, width = (side if size is None else size for size in (z_height, z_width))
    if min(height, width) < 1:
        raise ValueError(f"the latent grid must have at least one row and column, not {height} x {width}")
    tokens = height * width * model.first_stage_model.quantize.tokens_per_position
    if steps is not None and steps != tokens:
        raise ValueError(f"steps={steps} does not fill a latent grid of {height} x {width}: {tokens} do")
    if dim_z is not None and dim_z != codebook_dim:
        raise ValueError(f"dim_z={dim_z}, but the codebook's entries have {codebook_dim} dimensions")
    block_size = model.transformer.block_size
    if tokens > block_size:
        raise ValueError(
            f"a latent grid of {height} x {width} does not fit into block_size {block_size}; "
            "scripts/make_samples.py samples larger grids by windows"
        )
    return codebook_dim, height, width


def at_precision(model: Net2NetTransformer, precision: str) -> AbstractContextManager:
    """The context in which the model samples with the `--precision` "32", "bf16" or "16".

    In 16 bits the transformer's weights are converted, once and for good, so that each step reads half as much; the
    first stage computes under autocast.
    """
    if PRECISIONS[precision] is not None:
        model.transformer.to(PRECISIONS[precision])
    return autocast(model.device, precision)


def check_guidance(scale: float, model: Net2NetTransformer | None = None) -> None:
    """Raises ValueError for a scale that is no finite number from 0 on, and for a model that cannot be guided by it."""
    if not (scale >= 0 and math.isfinite(scale)):
        raise ValueError(f"guidance_scale must be a number from 0 on, not {scale}; 1 is off")
    if scale != 1 and model is not None and getattr(model, "null_token", None) is None:
        raise ValueError(
            f"guidance_scale={scale}: this model has no null_token that stands for no condition; "
            "train one with cond_drop_prob and null_token, or leave guidance at 1"
        )


@torch.no_grad()
def sample_images(
    model: Net2NetTransformer,
    keys: Sequence[Key],
    *,
    seed: int,
    shape: tuple[int, int, int] | None = None,
    guidance_scale: float = 1.0,
    decoder: Decoder | None = None,
    **filters,
) -> tuple[Tensor, Tensor]:
    """Images (b, c, H, W), unclamped around [-1, 1], and their tokens int64 (b, l), one row per (class, index) key.

    `shape` is (d, h, w), by default the model's; `filters` are the options of `next_token`. Only real entries of the
    codebook are drawn, also by a transformer with a larger vocabulary. A `decoder` of the model's transformer serves
    many batches. A guidance_scale other than 1 is classifier-free guidance, for models with a null token.
    """
    d, h, w = latent_shape(model) if shape is None else shape
    prefix = torch.tensor([[model.sos_token if label is None else label] for label, _ in keys], device=model.device)
    guidance = None if guidance_scale == 1 else Guidance(model.null_condition(prefix), guidance_scale)
    quantizer = model.first_stage_model.quantize
    length = h * w * quantizer.tokens_per_position
    uniforms = sample_uniforms(seed, keys, length)
    decoder = decoder or Decoder(model.transformer)
    tokens = decoder(prefix, length, uniforms=uniforms, guidance=guidance, n_tokens=quantizer.re_embed, **filters)
    return model.decode_to_img(tokens, (len(keys), d, h, w)), tokens


def sample_batches(
    model: Net2NetTransformer,
    keys: Callable[[], Iterable[Key]],
    *,
    batch_size: int,
    top_ks: Sequence[int] = (0,),
    compile: bool = False,
    **options,
) -> Iterator[tuple[list[Key], Tensor, Tensor]]:
    """Sample all keys in batches: keys, images and tokens of each as `sample_images`, whose other options these are.

    A sample's k is that of `top_ks` at its index, which wraps around. `keys` is called once per k, since a batch is of
    one k; the last batch of each may be smaller.
    """
    decoder = Decoder(model.transformer, compile=compile)
    for turn, top_k in enumerate(top_ks):
        batches = _batches((key for key in keys() if key[1] % len(top_ks) == turn), batch_size)
        for batch in batches:
            yield batch, *sample_images(model, batch, top_k=top_k, decoder=decoder, **options)


def _batches(keys: Iterable[Key], batch_size: int) -> Iterator[list[Key]]:
    remaining = iter(keys)
    while batch := list(islice(remaining, batch_size)):
        yield batch
