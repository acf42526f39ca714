"""A grid that is being filled window by window, and three ways to fill it that give the same tokens.

b samples, (H, W) grid, g cells, l conditioning tokens, v vocabulary.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from taming.modules.transformer.mingpt import GPT
from taming.sampling.decode import decode
from taming.sampling.filtering import next_token
from taming.sampling.window_cache import WindowCaches, read_windows
from taming.sampling.window_conditioning import Conditioning
from taming.sampling.windows import Cell, Windows, wavefront


@dataclass(frozen=True)
class WindowStep:
    """What a callback learns after cell (i, j) was sampled, the `n_done`-th of `n_total`.

    index is i * W + j; local the cell's place in its window; crop the window's rows r0 to r1 and columns c0 to c1, as
    (r0, r1, c0, c1); grid int64 (b, H, W) the tokens so far, a view which later steps write to.
    """

    index: int
    n_done: int
    n_total: int
    cell: Cell
    local: Cell
    crop: tuple[int, int, int, int]
    grid: Tensor


class Canvas:
    """The grid and all that decides about its tokens.

    `cells`, in raster order, are to be sampled in grid int64 (b, H, W), of which the first `shape` rows and columns are
    wanted. kept is bool (b, H, W), or None if no sample keeps a cell that others sample; uniforms (b, H, W), or None to
    take the most likely tokens; `filters` are the options of `next_token`.
    """

    def __init__(
        self,
        windows: Windows,
        cells: Sequence[Cell],
        conditioning: Conditioning,
        *,
        grid: Tensor,
        shape: tuple[int, int],
        kept: Tensor | None,
        uniforms: Tensor | None,
        filters: Mapping,
        callback: Callable[[WindowStep], None] | None,
    ) -> None:
        self.windows, self.cells, self.conditioning = windows, cells, conditioning
        self.grid, self.shape = grid, shape
        self.kept, self.uniforms, self.filters, self.callback = kept, uniforms, filters, callback
        self._n_done, self._n_total = 0, sum(map(self._is_wanted, cells))
        self._invalid = torch.zeros(len(grid), dtype=torch.bool, device=grid.device)

    def length(self, cell: Cell) -> int:
        """Positions of the sequence that the cell follows."""
        return self.conditioning.length + self.windows.n_read(cell)

    def sequence(self, cell: Cell, *, past: int = 0) -> Tensor:
        """Conditioning and window before the cell, but for the first `past` positions: int64 (b, length - past)."""
        r0, r1, c0, c1 = self.windows.crop(cell)
        tokens = self.grid[:, r0:r1, c0:c1].flatten(1)[:, : self.windows.n_read(cell)]  # (b, h, w) -> (b, n)
        if past:
            return tokens[:, past - self.conditioning.length :]
        return torch.cat((self.conditioning.tokens(cell), tokens), dim=1)

    def fill(self, cells: Sequence[Cell], logits: Tensor) -> None:
        """Sample all of `cells` from logits (g*b, v), the first b of them for the first cell."""
        columns = None if self.uniforms is None else torch.cat([self.uniforms[:, i, j] for i, j in cells])
        chosen = next_token(logits, columns, **self.filters).view(len(cells), -1)  # (g*b,) -> (g, b)
        for (i, j), tokens in zip(cells, chosen, strict=True):
            if self.kept is not None:
                tokens = torch.where(self.kept[:, i, j], self.grid[:, i, j], tokens)
            self._invalid |= tokens < 0
            self.grid[:, i, j] = tokens.clamp(min=0)
        for cell in cells:
            self._report(cell)

    def result(self) -> Tensor:
        """The grid int64 (b, H, W) without padding. Raises ValueError if logits allowed no token."""
        if self._invalid.any():
            raise ValueError(
                f"{int(self._invalid.sum())} of {len(self.grid)} samples: the transformer's logits are not finite; "
                "check its weights, or sample with --precision 32"
            )
        return self._wanted().clone()

    def _is_wanted(self, cell: Cell) -> bool:
        return cell[0] < self.shape[0] and cell[1] < self.shape[1]

    def _wanted(self) -> Tensor:
        return self.grid[:, : self.shape[0], : self.shape[1]]

    def _report(self, cell: Cell) -> None:
        if self.callback is None or not self._is_wanted(cell):
            return
        self._n_done += 1
        windows, index = self.windows, cell[0] * self.shape[1] + cell[1]
        place = cell, windows.local(cell), windows.crop(cell)
        self.callback(WindowStep(index, self._n_done, self._n_total, *place, grid=self._wanted()))


def fill_sequentially(gpt: GPT, canvas: Canvas) -> None:
    """The plain way: cell by cell in raster order, the whole window again each time."""
    for cell in canvas.cells:
        canvas.fill([cell], gpt(canvas.sequence(cell))[0][:, -1])


def fill_by_wavefront(gpt: GPT, canvas: Canvas, *, max_cache_bytes: int) -> None:
    """The fast way: a wave of cells at once, and as long as a window stays where it is nothing in it is computed twice.

    Cells of a wave that read equally many new positions go through the transformer together.
    """
    waves = wavefront(canvas.windows, canvas.cells)
    keys = {cell: (canvas.windows.origin(cell), canvas.conditioning.variant(cell)) for cell in canvas.cells}
    uses = defaultdict(list)
    for step, wave in enumerate(waves):
        for cell in wave:
            uses[keys[cell]].append((step, canvas.length(cell)))
    caches = WindowCaches(gpt, len(canvas.grid), uses, max_cache_bytes)
    for wave in waves:
        groups = defaultdict(list)
        for cell in wave:
            cache = caches.take(keys[cell])
            past = 0 if cache is None else cache.length
            groups[canvas.length(cell) - past, past == 0].append((cell, past, cache))
        order, logits = [], []
        for group in groups.values():
            members, pasts, of_members = zip(*group, strict=True)
            tokens = [canvas.sequence(cell, past=past) for cell, past in zip(members, pasts, strict=True)]
            logits.append(read_windows(gpt, torch.cat(tokens), of_members))
            order += members
        canvas.fill(order, torch.cat(logits))
        for cell in wave:
            caches.release(keys[cell])


def fill_as_sequence(gpt: GPT, canvas: Canvas) -> None:
    """The way where `is_sequence`: the decoder continues the tokens before the first cell."""
    first, width = canvas.cells[0], canvas.windows.grid[1]
    begin = first[0] * width + first[1]
    span = slice(begin, begin + len(canvas.cells))
    uniforms = None if canvas.uniforms is None else canvas.uniforms.flatten(1)[:, span]
    tokens = decode(gpt, canvas.sequence(first), len(canvas.cells), uniforms=uniforms, **canvas.filters)
    canvas.grid.view(len(tokens), -1)[:, span] = tokens  # (b, H, W) -> (b, H*W)


def is_sequence(canvas: Canvas) -> bool:
    """Whether the cells follow each other in one window with one conditioning, and nobody watches."""
    width = canvas.windows.grid[1]
    first, last = (i * width + j for i, j in (canvas.cells[0], canvas.cells[-1]))
    return (
        canvas.windows.grid == canvas.windows.window
        and last - first + 1 == len(canvas.cells)
        and len(set(map(canvas.conditioning.variant, canvas.cells))) == 1
        and canvas.kept is None
        and canvas.callback is None
    )
