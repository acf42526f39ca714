"""The published rule of windowed sampling and the order in which cells may be sampled together. No model, no tensors.

A transformer that holds one window of h x w tokens fills a grid of any H x W, cell by cell in raster order. The window
of cell (i, j) begins at

    r0(i) = clamp(i - a_h, 0, H - h),    c0(j) = clamp(j - a_w, 0, W - w),    0 <= a_h < h, 0 <= a_w < w,

and the cell reads what its window holds before it: whole rows r0 .. i - 1, and columns c0 .. j - 1 of its own row.

**t(i, j) = w i + j is a schedule**: cells of equal t may be sampled at once, in ascending t, for any grid, window and
anchor. A cell lies in its window, so c0(j) <= j, and the last column of the window is c0(j) + w - 1 <= j + w - 1. Hence
all that (i, j) reads has a smaller t:

    in earlier rows,  t <= w (i - 1) + (j + w - 1) = t(i, j) - 1;
    in its own row,   t <= w i + (j - 1)           = t(i, j) - 1.

Row i takes t = w i .. w i + W - 1, and W >= w leaves no gap between rows: w (H - 1) + W steps instead of H W.

**It is optimal if a_h, a_w >= 1**: then j - c0(j) >= min(j, a_w) >= 1 for j >= 1, so (i, j) reads (i, j - 1); and,
since c0(0) = 0 and i - r0(i) >= min(i, a_h) >= 1 for i >= 1, (i, 0) reads (i - 1, w - 1). In the chain
(0, 0) .. (0, w - 1), (1, 0) .. (1, w - 1), ..., (H - 1, 0) .. (H - 1, W - 1) each cell reads the one before it, and it
has w (H - 1) + W cells.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

Cell = tuple[int, int]
"""Row and column in the grid."""


@dataclass(frozen=True)
class Windows:
    """The windows (h, w) of a grid (H, W) at least as large; `anchor` (a_h, a_w) is the place of a cell in its window
    unless the border is near. Raises ValueError for an anchor outside the window.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    anchor: tuple[int, int]

    def __post_init__(self) -> None:
        assert all(1 <= side <= length for side, length in zip(self.window, self.grid, strict=True)), self
        if not all(0 <= place < side for place, side in zip(self.anchor, self.window, strict=True)):
            raise ValueError(f"anchor {self.anchor} lies outside the window {self.window[0]} x {self.window[1]}")

    def cells(self) -> Iterator[Cell]:
        """All cells in raster order."""
        return product(*map(range, self.grid))

    def origin(self, cell: Cell) -> Cell:
        """Row and column in the grid where the cell's window begins."""
        (i, j), (a_h, a_w), (h, w), (height, width) = cell, self.anchor, self.window, self.grid
        return min(max(i - a_h, 0), height - h), min(max(j - a_w, 0), width - w)

    def local(self, cell: Cell) -> Cell:
        """The cell's row and column in its window."""
        r0, c0 = self.origin(cell)
        return cell[0] - r0, cell[1] - c0

    def crop(self, cell: Cell) -> tuple[int, int, int, int]:
        """The cell's window as rows r0 to r1 and columns c0 to c1, the ends excluded: (r0, r1, c0, c1)."""
        r0, c0 = self.origin(cell)
        return r0, r0 + self.window[0], c0, c0 + self.window[1]

    def n_read(self, cell: Cell) -> int:
        """How many tokens of its window the cell reads."""
        i, j = self.local(cell)
        return i * self.window[1] + j

    def reads(self, cell: Cell) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns of the two rectangles that the cell reads: of earlier rows, and of its own."""
        (i, j), (r0, _, c0, c1) = cell, self.crop(cell)
        return (slice(r0, i), slice(c0, c1)), (slice(i, i + 1), slice(c0, j))

    def n_steps(self) -> int:
        """Steps of the wavefront when nothing is known."""
        return self.window[1] * (self.grid[0] - 1) + self.grid[1]


def wavefront(windows: Windows, cells: Collection[Cell]) -> list[list[Cell]]:
    """The cells in groups that may be sampled at once, one group after the other (see the module's proof)."""
    waves: dict[int, list[Cell]] = {}
    for i, j in cells:
        waves.setdefault(windows.window[1] * i + j, []).append((i, j))
    return [waves[step] for step in sorted(waves)]


def cells_to_sample(windows: Windows, shape: tuple[int, int], kept: np.ndarray) -> list[Cell]:
    """In raster order, what must be sampled for the first `shape` rows and columns of the grid, the rest being padding.

    That is the cells of `shape` outside `kept` (bool, like the grid), and those of the padding that they come to read.
    """
    wanted = np.zeros(windows.grid, dtype=bool)
    wanted[: shape[0], : shape[1]] = True
    wanted &= ~kept
    if shape != windows.grid:
        for cell in reversed(list(windows.cells())):  # what a cell reads comes before it
            if wanted[cell]:
                for part in windows.reads(cell):
                    wanted[part] = ~kept[part]
    return [(int(i), int(j)) for i, j in np.argwhere(wanted)]


def default_side(block_size: int, cond_tokens: Callable[[int], int | None]) -> int:
    """The side n of the largest square window that fits: cond_tokens(n) + n * n - 1 <= block_size.

    `cond_tokens` tells how many conditioning tokens a window of side n has, None if there is none of that side. Raises
    ValueError if no window fits.
    """
    for side in range(math.isqrt(block_size + 1), 0, -1):
        length = cond_tokens(side)
        if length is not None and length + side**2 - 1 <= block_size:
            return side
    raise ValueError(f"no window fits into block_size {block_size} beside its conditioning; make that smaller")
