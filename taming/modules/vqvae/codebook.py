"""What codebooks are made of: nearest entry, k-means, picking vectors, and keeping processes in step."""

import math

import torch
import torch.distributed as dist
from torch import Tensor

CHUNK = 512  # rows per distance matrix: fast, and at most 512 * k numbers of extra memory


@torch.no_grad()
def nearest_code(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index (n,) of the codebook row (k, d) nearest to each of `vectors` (n, d), the first on ties.

    Minimises |e|^2 - 2 z.e, the squared distance without the constant |z|^2.
    """
    norms = codebook.square().sum(dim=1)
    distances = vectors.new_empty(min(CHUNK, len(vectors)), len(codebook))  # one for all: allocating takes time too
    indices = [
        torch.addmm(norms, rows, codebook.t(), alpha=-2, out=distances[: len(rows)]).argmin(dim=1)
        for rows in vectors.split(CHUNK)
    ]
    return torch.cat(indices)


@torch.no_grad()
def pick_rows(vectors: Tensor, count: int) -> Tensor:
    """`count` random rows of `vectors` (n, d): different ones while there are enough."""
    n = len(vectors)
    if count <= n:
        return vectors[torch.randperm(n, device=vectors.device)[:count]]
    return vectors[torch.randint(n, (count,), device=vectors.device)]


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


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of x over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


def broadcast_from_first(x: Tensor) -> Tensor:
    """x as the first process has it."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(x, src=0)
    return x


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
