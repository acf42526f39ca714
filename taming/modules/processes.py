"""What processes that train together tell each other. A process on its own is its own only partner: nothing changes."""

import torch
import torch.distributed as dist
from torch import Tensor


def count_processes() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of x over all processes, in x itself."""
    if count_processes() > 1:
        dist.all_reduce(x)
    return x


def all_reduce_mean(x: Tensor) -> Tensor:
    """The mean of x over all processes."""
    return all_reduce_sum(x) / count_processes() if count_processes() > 1 else x


def broadcast_from_first(x: Tensor) -> Tensor:
    """x as the first process has it."""
    if count_processes() > 1:
        dist.broadcast(x, src=0)
    return x


def row_range(x: Tensor) -> tuple[int, int]:
    """Where the rows of x begin if those of all processes stand below each other, and how many there are then."""
    if count_processes() == 1:
        return 0, len(x)
    lengths = torch.zeros(count_processes(), dtype=torch.int64, device=x.device)
    lengths[dist.get_rank()] = len(x)
    lengths = all_reduce_sum(lengths).tolist()
    return sum(lengths[: dist.get_rank()]), sum(lengths)


def gather_rows(x: Tensor) -> Tensor:
    """The rows of x (n, d) of all processes below each other, in the order of the processes; n may differ."""
    start, total = row_range(x)
    rows = x.new_zeros(total, *x.shape[1:])
    rows[start : start + len(x)] = x
    return all_reduce_sum(rows)  # one has a row and the others zeros there: exact
