"""What all quantizers share: a reduced vocabulary of codes, and the look-up of entries.

b batch, d code dimension, h x w latent grid, k codebook size.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.modules.util import at_least_float32


class Quantizer(nn.Module):
    """Latents (b, d, h, w) -> (z_q of that shape, loss (), (perplexity, encodings, indices int64)).

    A quantizer has `n_e` entries of `e_dim` dimensions, and `re_embed` codes: n_e, or fewer with `remap`. This is the
    path of a .npy file with the codes in use; it becomes the buffer `used`. Codes outside it become `unknown_index`: an
    integer, "extra" (one more id) or "random" (a random used one).
    """

    n_e: int
    e_dim: int
    remap: str | Path | None = None
    tokens_per_position: int = 1
    """Codes that one latent vector has; those of a position follow each other in the flat order."""

    def _init_remap(self, n_codes: int, remap: str | Path | None, unknown_index: str | int) -> None:
        self.remap = remap
        self.unknown_index = unknown_index
        self.re_embed = n_codes
        if remap is None:
            return
        self.register_buffer("used", torch.from_numpy(np.load(remap, allow_pickle=False)).long())
        self.re_embed = len(self.used)
        if unknown_index == "extra":
            self.unknown_index = self.re_embed
            self.re_embed += 1

    def frozen(self) -> AbstractContextManager:
        """A context in which a forward pass in training mode leaves the codebook as it is."""
        return nullcontext()

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """Entries (b, d, h, w) for flat indices and shape (b, h, w, d); with shape None indices.shape + (d,).

        Raises ValueError for an index that the codebook does not have.
        """
        raise NotImplementedError

    def embed_code(self, code: Tensor) -> Tensor:
        """Codes (b, h, w), or (b, h, w, tokens_per_position) -> entries (b, d, h, w)."""
        return self.get_codebook_entry(code.reshape(-1), shape=(*code.shape[:3], self.e_dim))

    def remap_to_used(self, inds: Tensor) -> Tensor:
        """Codes (b, ...) -> positions in `used`, the same shape."""
        assert inds.ndim > 1, "indices need a batch axis"
        ordered, order = self.used.sort(stable=True)
        place = torch.searchsorted(ordered, inds).clamp(max=len(ordered) - 1)
        known = ordered[place] == inds
        if self.unknown_index == "random":
            unknown = torch.randint(0, self.re_embed, inds.shape).to(inds.device)
        else:
            unknown = torch.full_like(inds, self.unknown_index)
        return torch.where(known, order[place], unknown)

    def unmap_to_all(self, inds: Tensor) -> Tensor:
        """Positions in `used` (b, ...) -> codes, the same shape; the extra id becomes the first used code."""
        assert inds.ndim > 1, "indices need a batch axis"
        if self.re_embed > len(self.used):
            inds = inds.masked_fill(inds >= len(self.used), 0)
        return self.used[inds]

    def _entries(self, weight: Tensor, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """Rows of `weight` (k, d): as (b, d, h, w) for shape (b, h, w, d), else indices.shape + (d,)."""
        self._check_range(indices)
        if self.remap is not None:
            batch = shape[0] if shape is not None else 1
            indices = self.unmap_to_all(indices.reshape(batch, -1)).reshape(indices.shape)
        entries = F.embedding(indices, weight)
        return entries if shape is None else to_grid(entries, shape)

    def _check_range(self, indices: Tensor) -> None:
        if indices.numel() == 0 or indices.device.type == "meta":
            return
        lowest, highest = (int(bound) for bound in indices.aminmax())
        if lowest < 0 or highest >= self.re_embed:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(
                f"codebook index {wrong} is out of range: this codebook has entries 0 to {self.re_embed - 1}"
            )

    def _shape_indices(self, indices: Tensor, z: Tensor, sane_index_shape: bool) -> Tensor:
        """Published shapes: (n,), with remap (n, 1), with sane_index_shape (b, h, w)."""
        if self.remap is not None:
            indices = self.remap_to_used(indices.view(z.shape[0], -1)).view(-1, 1)
        return indices.view(z.shape[0], *z.shape[2:]) if sane_index_shape else indices


def to_grid(entries: Tensor, shape: Sequence[int]) -> Tensor:
    """Entries (..., d) in row-major order -> contiguous (b, d, h, w), for shape (b, h, w, d)."""
    return rearrange(entries.reshape(*shape), "b h w d -> b d h w").contiguous()


def flatten(z: Tensor) -> Tensor:
    return rearrange(z, "b d h w -> (b h w) d")


def unflatten(flat: Tensor, like: Tensor) -> Tensor:
    """Vectors (b*h*w, d) -> (b, d, h, w), with b, h and w of `like`."""
    b, _, h, w = like.shape
    return rearrange(flat, "(b h w) d -> b d h w", b=b, h=h, w=w)


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """The value of z_q with the gradient of z (Bengio et al. 2013); rounds as the published models do."""
    return z + (z_q - z).detach()


def perplexity(encodings: Tensor) -> Tensor:
    """exp of the entropy of the mean one-hot vector of `encodings` (n, k)."""
    usage = at_least_float32(encodings).mean(dim=0)
    return torch.exp(-torch.sum(usage * torch.log(usage + 1e-10)))
