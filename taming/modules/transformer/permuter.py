"""Orders in which the transformer reads the latent grid (compared in the appendix of Esser et al. 2021).

b batch, (h, w) grid, n = h*w positions in row-major order, f the order: position f[t] is read at step t.
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

MORTON_BITS = np.arange(32, dtype=np.uint64)
"""Places of the bits of one coordinate."""


class GridError(ValueError, AssertionError):
    """A grid that an order is not defined on: a user's mistake, which is an AssertionError in the published code."""


class AbstractPermuter(nn.Module):
    """Reorders the positions of x (b, n, ...); `reverse` restores the row-major order."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        raise NotImplementedError


class Identity(AbstractPermuter):
    """Row-major order, as it is."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        return x


class _Order(AbstractPermuter):
    """A fixed order of an H x W grid: buffers hold it and its inverse, as published checkpoints do."""

    def __init__(self, H: int, W: int) -> None:
        super().__init__()
        order = torch.from_numpy(np.asarray(self._order(H, W), dtype=np.int64).copy())
        self.register_buffer("forward_shuffle_idx", order)
        self.register_buffer("backward_shuffle_idx", order.argsort())

    @staticmethod
    def _order(height: int, width: int) -> np.ndarray | list[int]:
        """The positions (n,) in the order in which they are read."""
        raise NotImplementedError

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        """x (b, n, ...) -> the same shape. Raises ValueError for another number of positions than the grid has."""
        index = self.backward_shuffle_idx if reverse else self.forward_shuffle_idx
        if x.shape[1] != len(index):
            raise ValueError(
                f"{type(self).__name__} orders {len(index)} positions, not {x.shape[1]}: "
                "set H and W in permuter_config.params to the height and width of the latent grid"
            )
        return x[:, index]


class Subsample(_Order):
    """Coarse to fine: the even rows' even columns first, and so on within them. The grid is a square power of two."""

    @staticmethod
    def _order(height: int, width: int) -> np.ndarray:
        if height != width or height < 1 or height & (height - 1):
            raise GridError(f"Subsample needs a square grid whose side is a power of two, not {height} x {width}")
        return _subsample(_row_major(height, width))


class ZCurve(_Order):
    """Along the Z-order curve (Morton 1966), for any grid."""

    @staticmethod
    def _order(height: int, width: int) -> np.ndarray:
        return mortonify(*np.indices((height, width))).reshape(-1).argsort()


class SpiralOut(_Order):
    """From the middle of a square grid of even side outward: up, right, down, left, ever further."""

    @staticmethod
    def _order(height: int, width: int) -> list[int]:
        if height != width or height < 2 or height % 2:
            raise GridError(f"a spiral needs a square grid of even side, not {height} x {width}")
        return _spiral(height)


class SpiralIn(SpiralOut):
    """The way of SpiralOut backwards: from the last corner inward."""

    @staticmethod
    def _order(height: int, width: int) -> list[int]:
        return SpiralOut._order(height, width)[::-1]


class Random(_Order):
    """The one random order that published models use, for any grid: numpy's legacy generator, seed 1."""

    @staticmethod
    def _order(height: int, width: int) -> np.ndarray:
        return np.random.RandomState(1).permutation(height * width)


class AlternateParsing(_Order):
    """Boustrophedon: odd rows from right to left, for any grid."""

    @staticmethod
    def _order(height: int, width: int) -> np.ndarray:
        grid = _row_major(height, width)
        grid[1::2] = grid[1::2, ::-1].copy()
        return rearrange(grid, "h w -> (h w)")


def mortonify(i: int | np.ndarray, j: int | np.ndarray) -> np.uint64 | np.ndarray:
    """Morton code of row i and column j (32 bits each): their bits in turns, the column's lowest bit first."""
    return (_spread(i) << np.uint64(1)) | _spread(j)


def _spread(coordinate: int | np.ndarray) -> np.uint64 | np.ndarray:
    """Bit b moves to place 2 b."""
    bits = (np.asarray(coordinate, dtype=np.uint64)[..., None] >> MORTON_BITS) & np.uint64(1)  # (...) -> (..., 32)
    return (bits << (np.uint64(2) * MORTON_BITS)).sum(axis=-1, dtype=np.uint64)


def _row_major(height: int, width: int) -> np.ndarray:
    return np.arange(height * width).reshape(height, width)  # (h*w,) -> (h, w)


def _subsample(grid: np.ndarray) -> np.ndarray:
    """(s, s) -> (s*s,): each of the four grids of every second row and column in turn."""
    if grid.size == 1:
        return grid.reshape(1)  # (1, 1) -> (1,)
    return np.concatenate([_subsample(grid[row::2, column::2]) for row in (0, 1) for column in (0, 1)])


def _spiral(side: int) -> list[int]:
    """Positions of the walk from (side / 2, side / 2 - 1) over a grid of even side."""
    row, column = side // 2, side // 2 - 1
    positions = [row * side + column]
    for turn in range(1, side // 2 + 1):
        last = turn == side // 2
        legs = [(-1, 0, 2 * turn - 1), (0, 1, 2 * turn - 1)]
        legs += [(1, 0, 2 * turn - 1)] if last else [(1, 0, 2 * turn), (0, -1, 2 * turn)]
        for down, right, steps in legs:
            for _ in range(steps):
                row, column = row + down, column + right
                positions.append(row * side + column)
    return positions
