"""Grids of any size from a transformer that reads one window at a time (Esser et al. 2021, section 3.2).

`windows` holds the rule and the proof of the schedule, `window_engines` the ways to fill the grid.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from taming.models.cond_transformer import Net2NetTransformer
from taming.modules.transformer.mingpt import GPT
from taming.modules.transformer.permuter import Identity
from taming.sampling.decode import sample_uniforms
from taming.sampling.filtering import check_filters
from taming.sampling.static_steps import uniform_dtype
from taming.sampling.window_conditioning import (
    CondFn,
    Conditioning,
    call,
    called,
    check_tokens,
    cropped,
    tokens_per_window,
    whole,
)
from taming.sampling.window_engines import (
    Canvas,
    WindowStep,
    fill_as_sequence,
    fill_by_wavefront,
    fill_sequentially,
    is_sequence,
)
from taming.sampling.windows import Cell, Windows, cells_to_sample, default_side

MAX_CACHE_BYTES = 4 * 2**30
Shape = tuple[int, int]
Schedule = Literal["wavefront", "sequential"]


@torch.no_grad()
def sample_windowed(
    model: Net2NetTransformer,
    c: Tensor | None,
    shape: Shape,
    *,
    z_init: Tensor | None = None,
    start: int = 0,
    mask: Tensor | None = None,
    window: int | Shape | None = None,
    anchor: int | Shape | None = None,
    cond_fn: CondFn | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = 1.0,
    sample: bool = True,
    n_tokens: int | None = None,
    generator: torch.Generator | Sequence[int] | None = None,
    uniforms: Tensor | None = None,
    callback: Callable[[WindowStep], None] | None = None,
    schedule: Schedule = "wavefront",
    max_cache_bytes: int = MAX_CACHE_BYTES,
) -> Tensor:
    """Sample a grid of tokens, int64 (b, H, W) with `shape` (H, W), each cell given what its window holds before it.

    Conditioning: `c` int64 is a grid (b, hc, wc), of which every window sees its part, or a sequence (b, l), which all
    see whole (a class; the start token of an unconditional model). Instead, cond_fn(i, j, r0, c0) may give the tokens
    (b, l) of cell (i, j), whose window begins at (r0, c0). It is called once per sampled cell in raster order, before
    them for (0, 0) if the size of the window is left to follow from their length.

    Completion: cells with a raster index below `start`, and those where `mask`, bool (H, W) or (b, H, W), is true, keep
    the tokens of z_init int64 (b, H, W) and cost nothing; later cells read them.

    `window` is a side or (h, w), by default the largest square that the block size allows; a smaller grid is sampled as
    the upper left part of one that it fits. `anchor` is the place of a cell in its window, by default the middle,
    h // 2; scenes use (h - 1) // 2. With a permuter the grid must be of the window's size, and z_init, mask, uniforms
    and the result are in the permuter's order.

    temperature, top_k, top_p (None is 1), sample and n_tokens (default: the codes of the codebook) are the options of
    `next_token`. Random numbers belong to cells: `uniforms` (b, H, W) in [0, 1), or what a torch.Generator gives, or
    for seeds, one per sample, the stream of `sample_uniforms` with the key (None, 0).

    callback is called for each sampled cell, after its step; at the last one n_done is n_total. schedule "sequential"
    is the plain way, in raster order. The fast way keeps max_cache_bytes of keys and values from step to step and
    computes anew what does not fit. Raises ValueError for options out of range, tensors of another shape, a grid or
    conditioning that fits no window, and for logits that allow no token.
    """
    gpt, shape = model.transformer, tuple(shape)
    assert not gpt.training, "sample in eval mode"
    n_tokens = model.first_stage_model.quantize.re_embed if n_tokens is None else n_tokens
    top_p = 1.0 if top_p is None else top_p
    _check_options(model, shape, c, cond_fn, temperature, top_p, schedule)
    known = {(0, 0): call(cond_fn, (0, 0), (0, 0), gpt)} if c is None and window is None else {}
    windows = _windows(model, known[0, 0] if known else c, shape, window, anchor)
    kept = _kept(windows, shape, start, mask, z_init)
    cells = cells_to_sample(windows, shape, kept.all(dim=0).numpy())
    if not cells:
        return z_init.to(gpt.pos_emb.device, copy=True)
    conditioning = _conditioning(gpt, windows, shape, cells, c, cond_fn, known)
    canvas = Canvas(
        windows,
        cells,
        conditioning,
        grid=_grid(gpt, windows, shape, conditioning.batch_size, z_init, n_tokens),
        shape=shape,
        kept=_kept_by_some(kept, conditioning.batch_size, gpt.pos_emb.device),
        uniforms=_uniforms(gpt, windows, shape, conditioning.batch_size, generator, uniforms) if sample else None,
        filters={"temperature": temperature, "top_k": top_k, "top_p": top_p, "sample": sample, "n_tokens": n_tokens},
        callback=callback,
    )
    if schedule == "sequential":
        fill_sequentially(gpt, canvas)
    elif is_sequence(canvas):
        fill_as_sequence(gpt, canvas)
    else:
        fill_by_wavefront(gpt, canvas, max_cache_bytes=max_cache_bytes)
    return canvas.result()


def _check_options(
    model: Net2NetTransformer,
    shape: Shape,
    c: Tensor | None,
    cond_fn: CondFn | None,
    temperature: float,
    top_p: float,
    schedule: str,
) -> None:
    check_filters(temperature, top_p)
    if schedule not in ("wavefront", "sequential"):
        raise ValueError(f'schedule must be "wavefront" or "sequential", not {schedule!r}')
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"the grid must have at least one row and one column, not shape {tuple(shape)}")
    if (c is None) == (cond_fn is None):
        raise ValueError("give either c or cond_fn; c of an unconditional model is its start token, (b, 1)")
    if c is not None:
        check_tokens("c", c, model.transformer.config.vocab_size)
        if c.ndim not in (2, 3) or not c.numel():
            raise ValueError(f"c must be a grid (b, hc, wc) or a sequence (b, l) of tokens, not {tuple(c.shape)}")
    levels = model.first_stage_model.quantize.tokens_per_position
    if levels != 1:
        raise ValueError(f"windows need one token per cell; the first stage's quantizer has {levels}")


def _windows(
    model: Net2NetTransformer, c: Tensor, shape: Shape, window: int | Shape | None, anchor: int | Shape | None
) -> Windows:
    """The windows of the grid, or of the smallest one that holds it and a window. `c` is read only for the default."""
    if window is None:
        window = default_side(model.transformer.block_size, tokens_per_window(c, shape))
    window = _pair(window)
    if min(window) < 1:
        raise ValueError(f"the window must have at least one row and one column, not {window[0]} x {window[1]}")
    if not isinstance(model.permuter, Identity) and tuple(shape) != window:
        raise ValueError(
            f"{type(model.permuter).__name__} orders whole grids: with it {shape[0]} x {shape[1]} must be the window, "
            f"{window[0]} x {window[1]}"
        )
    grid = max(shape[0], window[0]), max(shape[1], window[1])
    return Windows(grid, window, (window[0] // 2, window[1] // 2) if anchor is None else _pair(anchor))


def _pair(sides: int | Shape) -> Shape:
    return (sides, sides) if isinstance(sides, int) else (int(sides[0]), int(sides[1]))


def _kept(windows: Windows, shape: Shape, start: int, mask: Tensor | None, z_init: Tensor | None) -> Tensor:
    """Which cells of the padded grid are not sampled: bool (b or 1, H, W), on the CPU."""
    n_cells = shape[0] * shape[1]
    if not 0 <= start <= n_cells:
        raise ValueError(f"start must lie between 0 and the {n_cells} cells of the grid, not at {start}")
    kept = (torch.arange(n_cells) < start).view(1, *shape)
    if mask is not None:
        if mask.dtype != torch.bool or mask.ndim not in (2, 3) or mask.shape[-2:] != shape:
            raise ValueError(
                f"mask must be bool and of shape {tuple(shape)}, or that for each sample, "
                f"not {mask.dtype} {tuple(mask.shape)}"
            )
        kept = kept | mask.cpu().view(-1, *shape)
    if z_init is None and kept.any():
        raise ValueError("start and mask keep tokens of z_init: give it")
    padded = torch.zeros(len(kept), *windows.grid, dtype=torch.bool)
    padded[:, : shape[0], : shape[1]] = kept
    return padded


def _kept_by_some(kept: Tensor, batch_size: int, device: torch.device) -> Tensor | None:
    if len(kept) not in (1, batch_size):
        raise ValueError(f"mask is for {len(kept)} samples, the conditioning for {batch_size}")
    return None if len(kept) == 1 else kept.to(device)


def _conditioning(
    gpt: GPT,
    windows: Windows,
    shape: Shape,
    cells: Sequence[Cell],
    c: Tensor | None,
    cond_fn: CondFn | None,
    known: Mapping[Cell, Tensor],
) -> Conditioning:
    if c is None:
        conditioning = called(cond_fn, windows, cells, known=known, gpt=gpt)
    else:
        c = c.to(gpt.pos_emb.device)
        conditioning = whole(c) if c.ndim == 2 else cropped(c, shape, windows)
    length, (h, w) = conditioning.length, windows.window
    if length + h * w - 1 > gpt.block_size:
        raise ValueError(
            f"{length} conditioning tokens and a window of {h} x {w} do not fit into block_size {gpt.block_size}; "
            "choose a smaller window"
        )
    if length < gpt.n_unmasked:
        raise ValueError(f"{length} conditioning tokens must cover the n_unmasked = {gpt.n_unmasked} positions")
    return conditioning


def _grid(gpt: GPT, windows: Windows, shape: Shape, batch_size: int, z_init: Tensor | None, n_tokens: int) -> Tensor:
    """The padded grid as it is before sampling."""
    grid = torch.zeros(batch_size, *windows.grid, dtype=torch.int64, device=gpt.pos_emb.device)
    if z_init is not None:
        if tuple(z_init.shape) != (batch_size, *shape):
            raise ValueError(f"z_init must be of shape {(batch_size, *shape)}, not {tuple(z_init.shape)}")
        check_tokens("z_init", z_init, n_tokens)
        grid[:, : shape[0], : shape[1]] = z_init
    return grid


def _uniforms(
    gpt: GPT,
    windows: Windows,
    shape: Shape,
    batch_size: int,
    generator: torch.Generator | Sequence[int] | None,
    uniforms: Tensor | None,
) -> Tensor:
    """Random numbers (b, H, W) for all cells of the padded grid, on the model's device."""
    wanted = (batch_size, *shape)
    if uniforms is None and (generator is None or isinstance(generator, torch.Generator)):
        device = "cpu" if generator is None else generator.device
        uniforms = torch.rand(wanted, generator=generator, dtype=torch.float64, device=device)
    elif uniforms is None:
        if len(generator) != batch_size:
            raise ValueError(f"generator: {len(generator)} seeds for {batch_size} samples")
        uniforms = torch.cat([sample_uniforms(seed, [(None, 0)], shape[0] * shape[1]) for seed in generator]).view(
            wanted
        )
    if tuple(uniforms.shape) != wanted:
        raise ValueError(f"uniforms must be of shape {wanted}, not {tuple(uniforms.shape)}")
    if shape != windows.grid:
        uniforms = _padded_uniforms(uniforms.double().cpu(), windows.grid)
    device = gpt.pos_emb.device
    return uniforms.to(uniform_dtype(device)).to(device)


def _padded_uniforms(uniforms: Tensor, grid: Shape) -> Tensor:
    """Numbers for the padding that depend on those of the same sample (b, H, W) only."""
    seeds = [int.from_bytes(hashlib.sha256(of_sample.numpy().tobytes()).digest()[:16]) for of_sample in uniforms]
    padded = torch.cat([sample_uniforms(seed, [(None, 0)], grid[0] * grid[1]) for seed in seeds]).view(-1, *grid)
    padded[:, : uniforms.shape[1], : uniforms.shape[2]] = uniforms
    return padded
