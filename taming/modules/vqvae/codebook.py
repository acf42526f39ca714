"""What codebooks are made of: nearest entry, k-means, picking vectors, statistics of use."""

import math

import torch
from torch import Tensor

from taming.modules.processes import all_reduce_sum, broadcast_from_first, gather_rows, row_range

CHUNK = 512  # rows per distance matrix: fast, and at most 512 * k numbers of extra memory


@torch.no_grad()
def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index (n,) of the codebook row (k, d) nearest to each of `vectors` (n, d), the first on ties.

    Minimises |e|^2 - 2 z.e, the squared distance without the constant |z|^2. Raises ValueError if their types differ.
    """
    if codebook.dtype != vectors.dtype:
        raise ValueError(
            f"the codebook was rounded to {codebook.dtype}, with which images get other codes: train with "
            "--precision bf16-mixed; load a model for sampling by taming.load_model(..., dtype=...)"
        )
    norms = codebook.square().sum(dim=1)
    distances = vectors.new_empty(min(CHUNK, len(vectors)), len(codebook))  # one for all: allocating takes time too
    indices = [
        torch.addmm(norms, rows, codebook.t(), alpha=-2, out=distances[: len(rows)]).argmin(dim=1)
        for rows in vectors.split(CHUNK)
    ]
    return torch.cat(indices)


def pick_indices(n: int, count: int, device: torch.device) -> Tensor:
    """`count` random numbers below n: different ones while there are enough."""
    return torch.randperm(n, device=device)[:count] if count <= n else torch.randint(n, (count,), device=device)


@torch.no_grad()
def pick_rows(vectors: Tensor, count: int) -> Tensor:
    """`count` random rows of `vectors` (n, d): different ones while there are enough."""
    return vectors[pick_indices(len(vectors), count, vectors.device)]


@torch.no_grad()
def pick_rows_of_all(vectors: Tensor, count: int) -> Tensor:
    """`pick_rows` from the `vectors` (n, d) of all processes, the same ones in each of them."""
    start, total = row_range(vectors)
    chosen = broadcast_from_first(pick_indices(total, count, vectors.device)) - start
    own = (chosen >= 0) & (chosen < len(vectors))
    rows = vectors.new_zeros(count, vectors.shape[1])
    rows[own] = vectors[chosen[own]]
    return all_reduce_sum(rows)  # each row comes from one process


@torch.no_grad()
def kmeans(vectors: Tensor, k: int, iterations: int = 10) -> Tensor:
    """Centres (k, d) of `vectors` (n, d) by Lloyd's algorithm; a centre that loses all vectors moves to a random one.

    With fewer vectors than centres, the surplus centres are copies moved by a hundredth of the vectors' spread.
    """
    centres = pick_rows(vectors, k)
    if len(vectors) < k:
        return centres + 0.01 * vectors.std(dim=0) * torch.randn_like(centres)
    for _ in range(iterations):
        indices = nearest_code(vectors, centres)
        counts = torch.bincount(indices, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, indices, vectors)
        empty = counts == 0
        centres = sums / counts.clamp(min=1)[:, None]
        centres[empty] = pick_rows(vectors, int(empty.sum()))
    return centres


@torch.no_grad()
def kmeans_of_all(vectors: Tensor, k: int) -> tuple[Tensor, int]:
    """`kmeans` of the `vectors` (n, d) of all processes, the same in each of them, and how many vectors these are."""
    vectors = gather_rows(vectors)
    return broadcast_from_first(kmeans(vectors, k)), len(vectors)


def usage_of_counts(counts: Tensor) -> float:
    """The share of the codes that occur, given how often each does (k,)."""
    return (counts > 0).double().mean().item()


def entropy_of_counts(counts: Tensor) -> float:
    """Entropy in nats of the distribution with these counts (k,)."""
    p = counts.double() / counts.sum().clamp(min=1)
    return -torch.xlogy(p, p).sum().item()


def perplexity_of_counts(counts: Tensor) -> float:
    """The number of equally frequent codes that would have the entropy of these counts (k,)."""
    return math.exp(entropy_of_counts(counts))
