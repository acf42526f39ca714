"""k-means over colours: images as sequences of palette entries (Chen et al. 2020, Image GPT).

b batch, c channels, (h, w) image, n points, k clusters.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

CHUNK_ELEMENTS = 2**22
"""Differences held at once by the search for the nearest centre: 16 MB in float32."""


class KMeans(nn.Module):
    """A palette `C` of `ncluster` colours with `nc` channels, zeros until `initialize` finds them by Lloyd's algorithm.

    `shape` is the image that codes become again by default.
    """

    def __init__(self, ncluster: int = 512, nc: int = 3, niter: int = 10) -> None:
        super().__init__()
        self.ncluster = ncluster
        self.nc = nc
        self.niter = niter
        self.shape = (3, 32, 32)
        self.register_buffer("C", torch.zeros(ncluster, nc))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def is_initialized(self) -> bool:
        return bool(self.initialized)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Find the centres of points x (n, c), from random points on; empty clusters get random points too.

        Randomness: one torch.randperm at the start and one in each of the `niter` rounds, global stream. Raises
        ValueError for fewer points than clusters, or another number of channels.
        """
        n_points = len(x)
        if n_points < self.ncluster or x.shape[1:] != (self.nc,):
            raise ValueError(
                f"KMeans(ncluster={self.ncluster}, nc={self.nc}) needs at least {self.ncluster} points of {self.nc} "
                f"channels, not {tuple(x.shape)}"
            )
        centres = x[torch.randperm(n_points)[: self.ncluster]]
        for _ in range(self.niter):
            nearest = _nearest(x, centres)
            counts = torch.bincount(nearest, minlength=self.ncluster)
            centres = torch.zeros_like(centres).index_add_(0, nearest, x) / counts.clamp(min=1)[:, None]
            empty = counts == 0
            centres[empty] = x[torch.randperm(n_points)[: int(empty.sum())]]
        self.C.copy_(centres)
        self.initialized.fill_(1)

    def forward(self, x: Tensor, reverse: bool = False, shape: Sequence[int] | None = None) -> Tensor:
        """Images (b, c, h, w) -> codes int64 (b, h*w), or reversed codes (b, h*w) -> images (b, *shape)."""
        if reverse:
            colours = rearrange(F.embedding(x, self.C), "b n c -> b (c n)")
            return colours.reshape(len(x), *(self.shape if shape is None else shape))  # (b, c*h*w) -> (b, c, h, w)
        codes = _nearest(rearrange(x, "b c h w -> (b h w) c"), self.C)
        return rearrange(codes, "(b n) -> b n", b=len(x))


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre (k, c) of each point (n, c), the first of equals: int64 (n,)."""
    rows = max(1, CHUNK_ELEMENTS // centres.numel())
    chunks = ((chunk[:, None] - centres).square().sum(dim=-1).argmin(dim=-1) for chunk in x.split(rows))
    return torch.cat(list(chunks))
