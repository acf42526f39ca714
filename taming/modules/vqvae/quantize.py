"""Vector quantizers: continuous latents -> entries of a learned codebook (van den Oord et al. 2017).

b batch, d code dimension, h x w latent grid, n = b h w vectors in row-major order, k codebook size.
Every quantizer returns (z_q, loss, (perplexity, encodings, indices)); gradients pass straight through to z.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.modules.vqvae.codebook import all_reduce_sum, broadcast_from_first, kmeans, nearest_code, pick_rows


class IndexRemapper(nn.Module):
    """The part that all quantizers share: a reduced vocabulary of codes, and the look-up of entries.

    `remap` is the path of a .npy file with the codes in use; it becomes the buffer `used`. Codes outside it become
    `unknown_index`: an integer, "extra" (one more id) or "random" (a random used one).
    """

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

    def embed_code(self, code: Tensor) -> Tensor:
        """Codes (b, h, w) -> entries (b, d, h, w)."""
        return self.get_codebook_entry(code.reshape(-1), shape=(*code.shape, self.e_dim))

    def _entries(self, weight: Tensor, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """Rows of `weight` (k, d): as (b, d, h, w) for shape (b, h, w, d), else indices.shape + (d,)."""
        if self.remap is not None:
            batch = shape[0] if shape is not None else 1
            indices = self.unmap_to_all(indices.reshape(batch, -1)).reshape(indices.shape)
        entries = F.embedding(indices, weight)
        if shape is None:
            return entries
        return rearrange(entries.reshape(*shape), "b h w d -> b d h w").contiguous()

    def _shape_indices(self, indices: Tensor, z: Tensor, sane_index_shape: bool) -> Tensor:
        """Published shapes: (n,), with remap (n, 1), with sane_index_shape (b, h, w)."""
        if self.remap is not None:
            indices = self.remap_to_used(indices.view(z.shape[0], -1)).view(-1, 1)
        return indices.view(z.shape[0], *z.shape[2:]) if sane_index_shape else indices


class VectorQuantizer2(IndexRemapper):
    """The quantizer of VQModel: nearest entry, codebook trained by its own loss term.

    legacy=True is the published loss, in which beta weighs the codebook term instead of the commitment term.
    """

    def __init__(
        self,
        n_e: int,
        e_dim: int,
        beta: float,
        remap: str | Path | None = None,
        unknown_index: str | int = "random",
        sane_index_shape: bool = False,
        legacy: bool = True,
    ) -> None:
        super().__init__()
        self.n_e = n_e
        self.e_dim = e_dim
        self.beta = beta
        self.legacy = legacy
        self.sane_index_shape = sane_index_shape
        self.embedding = nn.Embedding(n_e, e_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / n_e, 1.0 / n_e)
        self._init_remap(n_e, remap, unknown_index)

    def forward(self, z: Tensor, temp=None, rescale_logits: bool = False, return_logits: bool = False):
        """Latents (b, d, h, w) -> (z_q of that shape, loss (), (None, None, indices int64))."""
        assert temp in (None, 1.0), "only for interface compatible with Gumbel"
        assert not rescale_logits and not return_logits, "only for interface compatible with Gumbel"
        with torch.autocast(z.device.type, enabled=False):
            latents = z.float()
            indices = nearest_code(_flatten(latents), self.embedding.weight)
            z_q = _unflatten(self.embedding(indices), latents)
            commitment = F.mse_loss(latents, z_q.detach())
            codebook = F.mse_loss(z_q, latents.detach())
            loss = commitment + self.beta * codebook if self.legacy else self.beta * commitment + codebook
            z_q = latents + (z_q - latents).detach()
        return z_q.to(z.dtype), loss, (None, None, self._shape_indices(indices, z, self.sane_index_shape))

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """Entries (b, d, h, w) for flat indices and shape (b, h, w, d); with shape None indices.shape + (d,)."""
        return self._entries(self.embedding.weight, indices, shape)


class EmbeddingEMA(nn.Module):
    """A codebook that follows the running means of the vectors assigned to it (van den Oord et al., appendix A.1)."""

    def __init__(self, num_tokens: int, codebook_dim: int, decay: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__()
        self.decay = decay
        self.eps = eps
        self.update = True
        weight = torch.randn(num_tokens, codebook_dim)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.cluster_size = nn.Parameter(torch.ones(num_tokens), requires_grad=False)
        self.embed_avg = nn.Parameter(weight.clone(), requires_grad=False)

    def forward(self, embed_id: Tensor) -> Tensor:
        return F.embedding(embed_id, self.weight)

    def cluster_size_ema_update(self, new_cluster_size: Tensor) -> None:
        self.cluster_size.data.lerp_(new_cluster_size, 1 - self.decay)

    def embed_avg_ema_update(self, new_embed_avg: Tensor) -> None:
        self.embed_avg.data.lerp_(new_embed_avg, 1 - self.decay)

    def weight_update(self, num_tokens: int) -> None:
        """Entries = running sums / running counts, the counts smoothed by eps."""
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (total + num_tokens * self.eps) * total
        self.weight.data.copy_(self.embed_avg / smoothed[:, None])

    @torch.no_grad()
    def reseat(self, chosen: Tensor, vectors: Tensor, count: float | Tensor) -> None:
        """Move the `chosen` (k,) entries to their rows of `vectors` (k, d), each with a running count of `count`."""
        self.cluster_size.data[chosen] = count
        self.weight.data.copy_(torch.where(chosen[:, None], vectors, self.weight))
        self.embed_avg.data.copy_(torch.where(chosen[:, None], vectors * self.cluster_size[:, None], self.embed_avg))


class EMAVectorQuantizer(IndexRemapper):
    """Nearest entry of a codebook that is not trained by gradients but follows its vectors (EmbeddingEMA).

    kmeans_init puts the entries on a k-means of the first training batch. revive_threshold > 0 puts an entry whose
    running count per batch falls below it on a random vector of the batch; both keep large parts of the codebook in use
    from the first steps on (Dhariwal et al. 2020, Jukebox, section 3.1; Lancucki et al. 2020).
    """

    def __init__(
        self,
        n_embed: int,
        embedding_dim: int,
        beta: float,
        decay: float = 0.99,
        eps: float = 1e-5,
        remap: str | Path | None = None,
        unknown_index: str | int = "random",
        sane_index_shape: bool = False,
        kmeans_init: bool = False,
        revive_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        self.codebook_dim = self.embedding_dim = self.e_dim = embedding_dim
        self.num_tokens = self.n_embed = self.n_e = n_embed
        self.beta = beta
        self.sane_index_shape = sane_index_shape
        self.revive_threshold = revive_threshold
        self.embedding = EmbeddingEMA(n_embed, embedding_dim, decay, eps)
        self.kmeans_init = kmeans_init
        if kmeans_init:
            self.register_buffer("kmeans_initialized", torch.tensor(False))
        self._init_remap(n_embed, remap, unknown_index)

    def forward(self, z: Tensor):
        """Latents (b, d, h, w) -> (z_q, loss (), (perplexity (), one-hot (n, k), indices int64))."""
        with torch.autocast(z.device.type, enabled=False):
            latents = z.float()
            flat = _flatten(latents.detach())
            updating = self.training and self.embedding.update
            if updating and self.kmeans_init and not self.kmeans_initialized:
                self._init_from(flat)
            indices = nearest_code(flat, self.embedding.weight)
            z_q = _unflatten(self.embedding(indices), latents)
            encodings = F.one_hot(indices, self.num_tokens).to(z.dtype)
            usage = encodings.float().mean(dim=0)
            perplexity = torch.exp(-torch.sum(usage * torch.log(usage + 1e-10)))
            if updating:
                self._follow(flat, encodings.float())
            loss = self.beta * F.mse_loss(z_q.detach(), latents)
            z_q = latents + (z_q - latents).detach()
        indices = self._shape_indices(indices, z, self.sane_index_shape)
        return z_q.to(z.dtype), loss, (perplexity, encodings, indices)

    @torch.no_grad()
    def _init_from(self, flat: Tensor) -> None:
        centres = broadcast_from_first(kmeans(flat, self.num_tokens))
        everywhere = torch.ones(self.num_tokens, dtype=torch.bool, device=flat.device)
        self.embedding.reseat(everywhere, centres, len(flat) / self.num_tokens)
        self.kmeans_initialized.fill_(True)

    @torch.no_grad()
    def _follow(self, flat: Tensor, encodings: Tensor) -> None:
        """One step of the running means over the vectors (n, d) of this batch, on all processes."""
        counts = all_reduce_sum(encodings.sum(dim=0))
        sums = all_reduce_sum(encodings.t() @ flat)  # (k, n) (n, d) -> (k, d)
        self.embedding.cluster_size_ema_update(counts)
        self.embedding.embed_avg_ema_update(sums)
        self.embedding.weight_update(self.num_tokens)
        if self.revive_threshold > 0:
            vectors = broadcast_from_first(pick_rows(flat, self.num_tokens))
            dead = self.embedding.cluster_size < self.revive_threshold
            self.embedding.reseat(dead, vectors, self.embedding.cluster_size.mean())

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        """Entries (b, d, h, w) for flat indices and shape (b, h, w, d); with shape None indices.shape + (d,)."""
        return self._entries(self.embedding.weight, indices, shape)


def _flatten(z: Tensor) -> Tensor:
    return rearrange(z, "b d h w -> (b h w) d")


def _unflatten(flat: Tensor, like: Tensor) -> Tensor:
    b, _, h, w = like.shape
    return rearrange(flat, "(b h w) d -> b d h w", b=b, h=h, w=w)
