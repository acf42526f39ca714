"""Which conditioning tokens belong to the window of a cell: a sequence, a part of a grid, or what a function says.

b batch, l conditioning tokens of a window, (hc, wc) conditioning grid.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder
from taming.data.helper_types import Annotation
from taming.modules.transformer.mingpt import GPT
from taming.sampling.windows import Cell, Windows

CondFn = Callable[[int, int, int, int], Tensor]
"""From row and column of a cell and those of its window's origin (i, j, r0, c0) to int64 (b, l)."""


@dataclass(frozen=True)
class Conditioning:
    """tokens(cell) are the conditioning int64 (b, l) of the cell's window.

    Cells whose windows have one origin have the same tokens iff variant(cell) is the same.
    """

    batch_size: int
    length: int
    tokens: Callable[[Cell], Tensor]
    variant: Callable[[Cell], int] = lambda cell: 0


def layout_in_windows(
    builder: ObjectsCenterPointsConditionalBuilder,
    annotations: Sequence[Annotation],
    shape: tuple[int, int],
    window: int,
    seed: str,
) -> CondFn:
    """What each window, of side `window`, of a grid of `shape` shows of a layout, (1, l).

    The objects come in an order drawn for each cell, as in training they came for each image.
    """
    height, width = shape

    def tokens(i: int, j: int, r0: int, c0: int) -> Tensor:
        crop = (c0 / width, r0 / height, window / width, window / height)
        return builder.build(annotations, crop, rng=random.Random(f"{seed}/{i}/{j}"))[None]

    return tokens


def layouts_in_windows(
    builder: ObjectsCenterPointsConditionalBuilder,
    annotations: Sequence[Annotation],
    shape: tuple[int, int],
    window: int,
    seeds: Sequence[str],
) -> dict[str, Any]:
    """Arguments of `sample_windowed` for samples of one scene on a grid of `shape`, one for each of the seeds.

    By a window that is all of the grid, the whole layout is read, and the cells' windows otherwise.
    """
    layouts = [layout_in_windows(builder, annotations, shape, window, seed) for seed in seeds]

    def tokens(*cell: int) -> Tensor:
        return torch.cat([layout(*cell) for layout in layouts])

    given = {"c": tokens(0, 0, 0, 0)} if shape == (window, window) else {"c": None, "cond_fn": tokens}
    return {**given, "window": window, "anchor": (window - 1) // 2}


def tokens_per_window(c: Tensor, shape: tuple[int, int]) -> Callable[[int], int | None]:
    """How many of c (b, l) or (b, hc, wc) a square window of a grid of `shape` sees, by its side (see default_side)."""
    if c.ndim == 2:
        return lambda side: c.shape[1]
    scales = _scales(c, shape)

    def count(side: int) -> int | None:
        rows, columns = (side * scale for scale in scales)
        return int(rows * columns) if rows.denominator == columns.denominator == 1 else None

    return count


def whole(c: Tensor) -> Conditioning:
    """The sequence c (b, l) in every window."""
    return Conditioning(*c.shape, tokens=lambda cell: c)


def cropped(c: Tensor, shape: tuple[int, int], windows: Windows) -> Conditioning:
    """The part of c (b, hc, wc) behind the window, c lying over the first `shape` cells of the grid.

    Beyond them its edges are repeated. Raises ValueError if windows do not begin and end at borders of its cells.
    """
    scales = _scales(c, shape)
    for name, scale, window, length in zip(("rows", "columns"), scales, windows.window, windows.grid, strict=True):
        moves = window < length  # then by one cell at a time
        if (window * scale).denominator != 1 or (moves and scale.denominator != 1):
            raise ValueError(
                f"a conditioning grid of {c.shape[1]} x {c.shape[2]} does not match a grid of {shape[0]} x {shape[1]}: "
                f"windows of {window} {name} do not cover whole cells of it; give it the size of the grid or a multiple"
            )
    for axis, (scale, length) in enumerate(zip(scales, windows.grid, strict=True), start=1):
        places = torch.arange(int(length * scale), device=c.device).clamp(max=c.shape[axis] - 1)
        c = c.index_select(axis, places)

    def tokens(cell: Cell) -> Tensor:
        r0, r1, c0, c1 = windows.crop(cell)
        rows, columns = (
            slice(int(begin * scale), int(end * scale))
            for begin, end, scale in zip((r0, c0), (r1, c1), scales, strict=True)
        )
        return c[:, rows, columns].flatten(1)  # (b, h', w') -> (b, l)

    length = int(windows.window[0] * scales[0]) * int(windows.window[1] * scales[1])
    return Conditioning(c.shape[0], length, tokens)


def called(
    cond_fn: CondFn, windows: Windows, cells: Iterable[Cell], *, known: Mapping[Cell, Tensor], gpt: GPT
) -> Conditioning:
    """What `cond_fn` says, called once for each of `cells` in their order, except for those that `known` has.

    Raises ValueError for different shapes, and for tokens that the vocabulary does not have.
    """
    table = {cell: known[cell] if cell in known else call(cond_fn, cell, windows.origin(cell), gpt) for cell in cells}
    first = next(iter(table.values()))
    contents: dict[tuple[Cell, bytes], int] = {}
    variants: dict[Cell, int] = {}
    for cell, tokens in table.items():
        if tokens.shape != first.shape:
            raise ValueError(
                f"cond_fn gave {tuple(tokens.shape)} tokens for cell {cell}, but {tuple(first.shape)} for the first one"
            )
        content = windows.origin(cell), tokens.cpu().numpy().tobytes()
        variants[cell] = contents.setdefault(content, len(contents))
    return Conditioning(*first.shape, tokens=table.__getitem__, variant=variants.__getitem__)


def call(cond_fn: CondFn, cell: Cell, origin: Cell, gpt: GPT) -> Tensor:
    """What `cond_fn` says of one cell, checked, on the model's device."""
    tokens = cond_fn(*cell, *origin)
    check_tokens(f"cond_fn for cell {cell}", tokens, gpt.config.vocab_size)
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(f"cond_fn must give tokens (batch, length), not {tuple(tokens.shape)} for cell {cell}")
    return tokens.to(gpt.pos_emb.device, copy=True)  # a function may use one buffer for all


def _scales(c: Tensor, shape: tuple[int, int]) -> tuple[Fraction, Fraction]:
    """Conditioning rows per row of the grid, and columns per column."""
    return Fraction(c.shape[1], shape[0]), Fraction(c.shape[2], shape[1])


def check_tokens(name: str, tokens: Tensor, limit: int) -> None:
    """Raises ValueError unless these are integers from 0 to limit - 1."""
    if tokens.is_floating_point():
        raise ValueError(f"{name}: tokens are integers, not {tokens.dtype}")
    if tokens.numel() and not 0 <= tokens.min() <= tokens.max() < limit:
        raise ValueError(
            f"{name}: tokens go from 0 to {limit - 1}, not from {int(tokens.min())} to {int(tokens.max())}"
        )
