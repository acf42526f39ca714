"""Datasets without an index, dealt to the workers of all ranks, which go on where they were when a run resumes."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from taming.data.faults import check_policy, warn_of_skipped
from taming.data.resumable import ResumableLoader, ranks

logger = logging.getLogger(__name__)

MAX_WORKERS = 1024


@dataclass(frozen=True)
class Part:
    """What one worker delivers of an epoch: stream `stream` of `n_streams`, the streams of all ranks' workers."""

    epoch: int
    stream: int
    n_streams: int
    seen: int  # items of this stream that have been delivered before
    total: int | None  # items of this stream in the epoch


@dataclass(frozen=True)
class Position:
    """How far a rank has come: `seen_batches` of the `size` items of its epoch (None if nobody knows how many)."""

    epoch: int
    seen_batches: int
    batch_size: int
    rank: int
    n_ranks: int

    def part(self, worker: int, n_workers: int, size: int | None) -> Part:
        """What a worker goes on with. A rank's batches come from its streams in turn, 0, 1, ..., 0, 1, ...

        PyTorch asks worker 0 for the first batch, also of the rest of an epoch: the streams are dealt out anew.
        """
        own = (worker + self.seen_batches) % n_workers
        total = None
        if size is not None:
            n_batches = -(-size // self.batch_size)
            missing = n_batches * self.batch_size - size  # in the last batch
            is_last = n_batches > 0 and own == (n_batches - 1) % n_workers
            total = len(range(own, n_batches, n_workers)) * self.batch_size - (missing if is_last else 0)
        return Part(
            epoch=self.epoch,
            stream=self.rank * n_workers + own,
            n_streams=self.n_ranks * n_workers,
            seen=len(range(own, self.seen_batches, n_workers)) * self.batch_size,
            total=total,
        )


class Stream(IterableDataset):
    """Items one after another, dealt to ranks and workers, from where `start` says. `name` is for messages.

    `epoch_size` is the number of items of all ranks in an epoch; None for what there is, which is for one process only.
    """

    def __init__(self, name: str, *, epoch_size: int | None, on_error: str) -> None:
        if epoch_size is not None and epoch_size < 1:
            raise ValueError(f"{name}: epoch_size is {epoch_size}; expected the number of images in an epoch, or none")
        self.name = name
        self.epoch_size = epoch_size
        self.faults = StreamFaults(on_error, name)
        # Workers that live longer than an epoch have a copy of this object, but share this memory.
        self.position = torch.tensor([0, 0, 1, 0, 1]).share_memory_()

    def items(self, part: Part) -> Iterator[Any]:
        """The items of one worker; to be overridden."""
        raise NotImplementedError

    def problems(self, limit: int | None = None) -> Iterator[str]:
        """What is wrong with all there is, or with the first `limit` items; to be overridden."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Samples of one rank in an epoch; TypeError without `epoch_size`."""
        if self.epoch_size is None:
            raise TypeError(f"{self.name} has no length without epoch_size")
        return self.epoch_size // ranks()[1]

    def start(self, epoch: int, seen_batches: int = 0, batch_size: int = 1) -> None:
        """Where the next iterators begin, in this process and in its workers.

        Raises ValueError for several ranks without `epoch_size`: they would wait for each other at its end.
        """
        rank, n_ranks = ranks()
        if self.epoch_size is None and n_ranks > 1:
            raise ValueError(f"{self.name}: {n_ranks} processes train together; give epoch_size, the images per epoch")
        self.position.copy_(torch.tensor([epoch, seen_batches, batch_size, rank, n_ranks]))

    def __iter__(self) -> Iterator[Any]:
        position = Position(*self.position.tolist())
        size = None if self.epoch_size is None else self.epoch_size // position.n_ranks
        info = get_worker_info()
        return self.items(position.part(info.id, info.num_workers, size) if info else position.part(0, 1, size))


class StreamFaults:
    """What a stream does about faulty samples: `note` raises the error or, with `on_error="skip"`, counts it.

    Each worker counts for itself, in memory that all share.
    """

    def __init__(self, on_error: str, name: str) -> None:
        self.on_error = check_policy(on_error, name)
        self.name = name
        self.counts = torch.zeros(MAX_WORKERS, dtype=torch.int64).share_memory_()
        self.reported = 0

    def note(self, error: Exception) -> None:
        if self.on_error == "raise":
            raise error
        info = get_worker_info()
        worker = info.id % MAX_WORKERS if info else 0
        self.counts[worker] += 1
        warn_of_skipped(error, int(self.counts[worker]))

    def report(self) -> None:
        """Log how many there were since the last report, if any."""
        total = int(self.counts.sum())
        if total > self.reported:
            logger.warning("%s: %d faults were skipped in this epoch", self.name, total - self.reported)
        self.reported = total


class StreamLoader(ResumableLoader):
    """A loader of a `Stream`.

    It resumes exactly for the same ranks, workers and batch size as before.
    """

    def start(self) -> None:
        self.dataset.start(self.epoch, self.batches, self.batch_size)
