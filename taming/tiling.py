"""Images larger than memory allows: a first stage applied to overlapping tiles.

    quant, indices = encode_tiled(model, images)  # the images may stay on the CPU while the model is on a GPU
    images = decode_tiled(model, indices)

Besides input and output, memory holds what one tile of the batch needs. Images that fit one tile give exactly what the
model gives. Otherwise the result differs from that of the whole image: normalisation and attention, which look at all
they are given, see a tile only, and convolutions meet zeros at its rim. Tiles as large as the model's training images,
or larger, serve it best. With the published network of factor 16 the default tiles need 0.7 GB of tensors (0.85 GB on a
CPU, workspace of the convolutions included), whatever the size of the image.

b batch, (c, h, w) image, (d, h', w') latent grid.
"""

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from taming.models.autoencoder import VQAutoencoder


class Span(NamedTuple):
    """One tile along one axis of the latent grid: the cells it reads, and those of them it answers for."""

    start: int
    stop: int
    first: int
    end: int


@torch.no_grad()
def encode_tiled(model: VQAutoencoder, x: Tensor, *, tile: int = 512, overlap: int = 64) -> tuple[Tensor, Tensor]:
    """Images (b, c, h, w) -> quantized latents (b, d, h', w') and codes (b, h', w'), on the device of the images.

    A quantizer with several tokens per position gives codes (b, h', w', tokens).

    Each of two overlapping tiles answers for the half of the overlap that lies deeper inside it, so every code is one
    that the encoder gave, as far from a tile's rim as can be. (Blending latents before one quantization gives seams
    of the same size, and codes between those of both tiles.) tile, overlap: pixels, multiples of the model's factor.

    Raises ValueError for other tiles, for images that the factor does not divide, and for a model in training mode.
    """
    factor = _checked_factor(model, tile, overlap)
    grid = _grid(x, factor)
    quant = indices = None
    for rows, columns in product(*(spans(cells, tile // factor, overlap // factor) for cells in grid)):
        pixels = x[:, :, _pixels(rows, factor), _pixels(columns, factor)]
        tile_quant, _, (_, _, tile_indices) = model.encode(pixels.to(model.device))
        tile_indices = rearrange(tile_indices.view(*tile_quant[:, 0].shape, -1), "b h w t -> b t h w")
        if quant is None:
            quant = tile_quant.new_empty((*tile_quant.shape[:2], *grid), device=x.device)
            indices = tile_indices.new_empty((*tile_indices.shape[:2], *grid), device=x.device)
        for whole, part in ((quant, tile_quant), (indices, tile_indices)):
            whole[..., _answered(rows), _answered(columns)] = part[..., _inside(rows), _inside(columns)]
    return quant, indices[:, 0] if indices.shape[1] == 1 else rearrange(indices, "b t h w -> b h w t")


@torch.no_grad()
def decode_tiled(model: VQAutoencoder, quant_or_indices: Tensor, *, tile: int = 512, overlap: int = 64) -> Tensor:
    """Quantized latents (b, d, h', w'), or integer codes as of encode_tiled, -> images (b, c, h, w), unclamped.

    The images lie on the device of the argument. Where tiles overlap they fade into each other, by weights that fall
    linearly to the rim of a tile. tile, overlap: pixels, multiples of the model's factor.

    Raises ValueError for other tiles, for another number of axes and for a model in training mode.
    """
    factor = _checked_factor(model, tile, overlap)
    decode, quant_or_indices = _decoder_of(model, quant_or_indices)
    grid, device = quant_or_indices.shape[-2:], quant_or_indices.device
    axes = [spans(cells, tile // factor, overlap // factor) for cells in grid]
    weights = [windows(axis, factor) for axis in axes]
    images = None
    for (i, rows), (j, columns) in product(*map(enumerate, axes)):
        part = decode(quant_or_indices[..., rows.start : rows.stop, columns.start : columns.stop].to(model.device))
        part = part.to(device, torch.promote_types(part.dtype, torch.float32))
        if images is None:
            images = part.new_zeros((*part.shape[:2], *(cells * factor for cells in grid)))
        part = part * (weights[0][i][:, None] * weights[1][j]).to(part)  # (h, 1) (w) -> (h, w)
        images[..., _pixels(rows, factor), _pixels(columns, factor)] += part
    return images


def spans(cells: int, tile: int, overlap: int) -> list[Span]:
    """Tiles along an axis of `cells`: as few as reach over it with at least `overlap` in common, evenly spaced.

    All have `tile` cells, or all cells there are. What two neighbours have in common is divided at its middle.
    """
    size = min(tile, cells)
    steps = math.ceil((cells - size) / (tile - overlap))
    starts = [i * (cells - size) // max(steps, 1) for i in range(steps + 1)]
    cuts = [0, *((before + size + after) // 2 for before, after in pairwise(starts)), cells]
    return [Span(start, start + size, *cut) for start, cut in zip(starts, pairwise(cuts), strict=True)]


def windows(axis: list[Span], factor: int) -> list[Tensor]:
    """A weight for each pixel of each tile of an axis; at every place those of all tiles add up to 1."""
    before = [0, *(left.stop - right.start for left, right in pairwise(axis))]
    after = [*before[1:], 0]
    total = torch.zeros(axis[-1].stop * factor)
    raw = []
    for span, left, right in zip(axis, before, after, strict=True):
        pixels = (span.stop - span.start) * factor
        raw.append(torch.minimum(_rise(pixels, left * factor), _rise(pixels, right * factor).flip(0)))
        total[_pixels(span, factor)] += raw[-1]
    return [window / total[_pixels(span, factor)] for span, window in zip(axis, raw, strict=True)]


def _rise(pixels: int, overlap: int) -> Tensor:
    """Weights (pixels,) from the rim of a tile inwards: linear over the overlap, 1 from there on."""
    if overlap == 0:
        return torch.ones(pixels)
    return ((torch.arange(pixels) + 0.5) / overlap).clamp(max=1.0)


def _pixels(span: Span, factor: int) -> slice:
    return slice(span.start * factor, span.stop * factor)


def _answered(span: Span) -> slice:
    return slice(span.first, span.end)


def _inside(span: Span) -> slice:
    """The answered cells, counted from the tile's own first."""
    return slice(span.first - span.start, span.end - span.start)


def _checked_factor(model: VQAutoencoder, tile: int, overlap: int) -> int:
    """Pixels per latent cell and side, for a model that is ready to be used and tiles that suit it."""
    if model.training:
        raise ValueError(f"{type(model).__name__} is in training mode, where tiles may change it: call model.eval()")
    factor = model.downsampling_factor
    if tile < factor or tile % factor:
        raise ValueError(f"tile={tile} must be a positive multiple of {factor}, the model's downsampling factor")
    if not 0 <= overlap < tile or overlap % factor:
        raise ValueError(
            f"overlap={overlap} must be a multiple of {factor}, the model's downsampling factor, from 0 to below the "
            f"tile's {tile}"
        )
    return factor


def _grid(x: Tensor, factor: int) -> tuple[int, int]:
    """Height and width of the latent grid of images."""
    if x.ndim != 4:
        raise ValueError(f"encode_tiled takes images (b, c, h, w), not a tensor of shape {tuple(x.shape)}")
    height, width = x.shape[2:]
    if height % factor or width % factor or not x.numel():
        nearest = " x ".join(str(max(side // factor, 1) * factor) for side in (height, width))
        raise ValueError(
            f"images of {height} x {width} pixels: height and width must be multiples of {factor}, the downsampling "
            f"factor of this model; crop or resize them to {nearest}"
        )
    return height // factor, width // factor


def _decoder_of(model: VQAutoencoder, quant_or_indices: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The method that decodes latents or codes, and these with the grid as their last two axes."""
    is_latent, axes = quant_or_indices.is_floating_point(), quant_or_indices.ndim
    if is_latent and axes == 4:
        return model.decode, quant_or_indices
    if not is_latent and axes == 3:
        return model.decode_code, quant_or_indices
    if not is_latent and axes == 4 and quant_or_indices.shape[3] == model.quantize.tokens_per_position:
        codes = rearrange(quant_or_indices, "b h w t -> b t h w")
        return lambda tile: model.decode_code(rearrange(tile, "b t h w -> b h w t")), codes
    raise ValueError(
        f"decode_tiled takes latents (b, d, h, w) or integer codes (b, h, w) or (b, h, w, tokens), not "
        f"{str(quant_or_indices.dtype).removeprefix('torch.')} of shape {tuple(quant_or_indices.shape)}"
    )
