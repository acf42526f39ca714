"""Vector quantizers: continuous latents -> entries of a learned codebook (van den Oord et al. 2017).

b batch, d code dimension, h x w latent grid, n = b h w vectors in row-major order, k codebook size.
Every quantizer returns (z_q, loss, (perplexity, encodings, indices)); gradients pass straight through to z.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.modules.processes import all_reduce_sum
from taming.modules.util import at_least_float32
from taming.modules.vqvae.base import (
    Quantizer,
    flatten,
    perplexity,
    straight_through,
    to_grid,
    unflatten,
)
from taming.modules.vqvae.codebook import kmeans_of_all, nearest_code, pick_rows_of_all


class VectorQuantizer2(Quantizer):
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
            latents = at_least_float32(z)
            indices = nearest_code(flatten(latents), self.embedding.weight)
            z_q = unflatten(self.embedding(indices), latents)
            commitment = F.mse_loss(latents, z_q.detach())
            codebook = F.mse_loss(z_q, latents.detach())
            loss = commitment + self.beta * codebook if self.legacy else self.beta * commitment + codebook
            z_q = straight_through(latents, z_q)
        return z_q.to(z.dtype), loss, (None, None, self._shape_indices(indices, z, self.sane_index_shape))

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        return self._entries(self.embedding.weight, indices, shape)


class VectorQuantizer(VectorQuantizer2):
    """The older form of VectorQuantizer2, which no model uses: always the legacy loss, more information returned."""

    def __init__(self, n_e: int, e_dim: int, beta: float) -> None:
        super().__init__(n_e, e_dim, beta)

    def forward(self, z: Tensor):
        """Latents (b, d, h, w) -> (z_q, loss (), (perplexity (), one-hot (n, k), indices int64 (n, 1)))."""
        z_q, loss, (_, _, indices) = super().forward(z)
        encodings = F.one_hot(indices, self.n_e).to(z.dtype)
        return z_q, loss, (perplexity(encodings), encodings, indices[:, None])


class GumbelQuantize(Quantizer):
    """Codes drawn from a categorical distribution, made differentiable by the Gumbel-softmax (Jang et al. 2017).

    In eval mode the most likely code is taken and no random numbers are drawn; stochastic_eval restores the published
    behaviour, which draws there too. `temperature` is no part of the state dict: a schedule sets it.
    """

    def __init__(
        self,
        num_hiddens: int,
        embedding_dim: int,
        n_embed: int,
        straight_through: bool = True,
        kl_weight: float = 5e-4,
        temp_init: float = 1.0,
        use_vqinterface: bool = True,
        remap: str | Path | None = None,
        unknown_index: str | int = "random",
        stochastic_eval: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim = self.e_dim = embedding_dim
        self.n_embed = self.n_e = n_embed
        self.straight_through = straight_through
        self.kl_weight = kl_weight
        self.temperature = temp_init
        self.use_vqinterface = use_vqinterface
        self.stochastic_eval = stochastic_eval
        self.proj = nn.Conv2d(num_hiddens, n_embed, 1)
        self.embed = nn.Embedding(n_embed, embedding_dim)
        self._init_remap(n_embed, remap, unknown_index)

    def forward(self, z: Tensor, temp: float | None = None, return_logits: bool = False):
        """Features (b, num_hiddens, h, w) -> (z_q (b, d, h, w), kl (), (None, None, indices int64 (b, h, w))).

        kl is the divergence of the distribution from the uniform one. With return_logits the logits (b, k, h, w) are a
        fourth value; with `remap` they are those of the used codes only.
        """
        with torch.autocast(z.device.type, enabled=False):
            logits = self.proj(at_least_float32(z))
            codebook = self.embed.weight
            if self.remap is not None:
                logits, codebook = logits[:, self.used], codebook[self.used]
            assignment, indices = self._assign(logits, self.temperature if temp is None else temp)
            if assignment is None:
                z_q = to_grid(F.embedding(indices, codebook), (*indices.shape, self.e_dim))
            else:
                z_q = torch.einsum("b k h w, k d -> b d h w", assignment, codebook)
            p = logits.softmax(dim=1)
            kl = self.kl_weight * torch.sum(p * torch.log(p * self.n_embed + 1e-10), dim=1).mean()
        if self.remap is not None:
            indices = self.remap_to_used(self.used[indices])
        result = (z_q.to(z.dtype), kl, (None, None, indices) if self.use_vqinterface else indices)
        return (*result, logits) if return_logits else result

    def _assign(self, logits: Tensor, temperature: float) -> tuple[Tensor | None, Tensor]:
        """Weights of the codes (b, k, h, w), None for one-hot weights without gradient, and the codes (b, h, w)."""
        if self.training or self.stochastic_eval:
            hard = self.straight_through or not self.training
            weights = F.gumbel_softmax(logits, tau=temperature, hard=hard, dim=1)
            return weights, weights.argmax(dim=1)
        indices = logits.argmax(dim=1)
        if not torch.is_grad_enabled():
            return None, indices
        soft = (logits / temperature).softmax(dim=1)
        one_hot = torch.zeros_like(soft).scatter_(1, indices[:, None], 1.0)
        return one_hot + soft - soft.detach(), indices

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        return self._entries(self.embed.weight, indices, shape)


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


class EMAVectorQuantizer(Quantizer):
    """Nearest entry of a codebook that is not trained by gradients but follows its vectors (EmbeddingEMA).

    kmeans_init puts the entries on a k-means of the first training batch. revive_threshold > 0 puts an entry whose
    running count per batch falls below it on a random vector of the batch; both keep large parts of the codebook in use
    from the first steps on (Dhariwal et al. 2020, Jukebox, section 3.1; Lancucki et al. 2020).

    Processes that train together keep one codebook, which follows the vectors of all of them: it is that of one process
    with all their batches.
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
        self._awaits_kmeans: bool | None = None  # not known: read off the buffer, once
        self._init_remap(n_embed, remap, unknown_index)

    def forward(self, z: Tensor):
        """Latents (b, d, h, w) -> (z_q, loss (), (perplexity (), one-hot (n, k), indices int64))."""
        with torch.autocast(z.device.type, enabled=False):
            latents = at_least_float32(z)
            flat = flatten(latents.detach())
            updating = self.training and self.embedding.update
            if updating and self._needs_kmeans():
                self._init_from(flat)
            indices = nearest_code(flat, self.embedding.weight)
            z_q = unflatten(self.embedding(indices), latents)
            encodings = F.one_hot(indices, self.num_tokens).to(z.dtype)
            if updating:
                self._follow(flat, at_least_float32(encodings))
            loss = self.beta * F.mse_loss(z_q.detach(), latents)
            z_q = straight_through(latents, z_q)
        indices = self._shape_indices(indices, z, self.sane_index_shape)
        return z_q.to(z.dtype), loss, (perplexity(encodings), encodings, indices)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        before, self.embedding.update = self.embedding.update, False
        try:
            yield
        finally:
            self.embedding.update = before

    def _needs_kmeans(self) -> bool:
        if self._awaits_kmeans is None:
            self._awaits_kmeans = self.kmeans_init and not self.kmeans_initialized  # waits for the device
        return self._awaits_kmeans

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._awaits_kmeans = None

    @torch.no_grad()
    def _init_from(self, flat: Tensor) -> None:
        centres, n_vectors = kmeans_of_all(flat, self.num_tokens)
        everywhere = torch.ones(self.num_tokens, dtype=torch.bool, device=flat.device)
        self.embedding.reseat(everywhere, centres, n_vectors / self.num_tokens)
        self.kmeans_initialized.fill_(True)
        self._awaits_kmeans = False

    @torch.no_grad()
    def _follow(self, flat: Tensor, encodings: Tensor) -> None:
        """One step of the running means over the vectors (n, d) of this batch, on all processes."""
        counts = all_reduce_sum(encodings.sum(dim=0))
        sums = all_reduce_sum(encodings.t() @ flat)  # (k, n) (n, d) -> (k, d)
        self.embedding.cluster_size_ema_update(counts)
        self.embedding.embed_avg_ema_update(sums)
        self.embedding.weight_update(self.num_tokens)
        if self.revive_threshold > 0:
            vectors = pick_rows_of_all(flat, self.num_tokens)
            dead = self.embedding.cluster_size < self.revive_threshold
            self.embedding.reseat(dead, vectors, self.embedding.cluster_size.mean())

    def get_codebook_entry(self, indices: Tensor, shape: Sequence[int] | None) -> Tensor:
        return self._entries(self.embedding.weight, indices, shape)
