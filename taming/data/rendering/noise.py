"""Smooth noise that repeats, looked up in a small table: fast enough for every ray of an image."""

from functools import cache

import numpy as np

CELLS = 16
FINENESS = 4
SIDE = CELLS * FINENESS
"""A power of two."""


@cache
def _table() -> np.ndarray:
    """Value noise (SIDE, SIDE, SIDE) from -1 to 1: random values in the cells' corners, cubically blended."""
    corners = np.random.Generator(np.random.PCG64(7)).uniform(-1, 1, (CELLS, CELLS, CELLS))
    place = np.arange(SIDE) / FINENESS
    cell, t = place.astype(int), place % 1
    t = t * t * (3 - 2 * t)
    values = corners
    for axis in range(3):
        shape = [-1 if i == axis else 1 for i in range(3)]
        low, high = values.take(cell, axis), values.take((cell + 1) % CELLS, axis)
        values = low + (high - low) * t.reshape(shape)
    return values.astype(np.float32)


def noise(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Noise from -1 to 1, of cells of unit length, at points whose coordinates broadcast against each other."""
    i, j, k = (np.floor(c * FINENESS).astype(np.int32) & (SIDE - 1) for c in (x, y, z))
    return _table().take((i * SIDE + j) * SIDE + k)


def fractal(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Three octaves of noise, mostly within -1 to 1."""
    return 0.6 * noise(x, y, z) + 0.3 * noise(2.1 * x, 2.1 * y, 2.1 * z) + 0.15 * noise(4.3 * x, 4.3 * y, 4.3 * z)
