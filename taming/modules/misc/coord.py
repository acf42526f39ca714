"""Coordinates as conditioning: where in an image a crop was taken."""

import torch
import torch.nn.functional as F
from torch import Tensor


class CoordStage:
    """Quantizes a coordinate map to `n_embed` levels on a grid coarser by `down_factor`; has no weights.

    A cell whose mean rounds to 1 gets the index n_embed itself, one more than a vocabulary of n_embed holds; the
    data sets' ramps stay below.
    """

    def __init__(self, n_embed: int, down_factor: int) -> None:
        self.n_embed = n_embed
        self.down_factor = down_factor

    def eval(self) -> "CoordStage":
        return self

    def encode(self, c: Tensor):
        """Coordinates (b, 1, h, w) in [0, 1] -> levels: floats (b, 1, h // f, w // f), None, (None, None, int64)."""
        assert c.min() >= 0.0 and c.max() <= 1.0, f"coordinates must lie in [0, 1], not [{c.min()}, {c.max()}]"
        size = [side // self.down_factor for side in c.shape[2:]]  # a scale of 1 / 49 would make 0 of 49
        levels = (F.interpolate(c, size=size, mode="area").clamp(0.0, 1.0) * self.n_embed).round()
        return levels, None, (None, None, levels.to(torch.int64))

    def decode(self, c: Tensor) -> Tensor:
        """Levels (b, 1, h, w) -> coordinates (b, 1, f h, f w)."""
        return F.interpolate(c / self.n_embed, scale_factor=self.down_factor, mode="nearest")
