"""Loaders whose epochs are decided by their number, and which can start in the middle of one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import distributed
from torch.utils.data.distributed import DistributedSampler

from taming.data.faults import ReportingLoader


@dataclass
class Upcoming:
    """What the next iterator of a loader delivers: an epoch, from the batch `batches` on."""

    epoch: int = 0
    batches: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Skip to the start of an epoch unless it is the next one anyway."""
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, 0


class ResumableLoader(ReportingLoader):
    """Each iterator is the next epoch, or the one that Lightning names; its state is how far the latest one has come.

    Lightning keeps the state in checkpoints, and `ExactResume` corrects it there by what was read ahead.
    """

    epoch = 0
    batches = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.upcoming = Upcoming()
        self.sampler.set_epoch = self.upcoming.set_epoch  # where Lightning names the epoch

    def start(self) -> None:
        """Let the next iterator of the parent class begin at `batches` of `epoch`; to be overridden."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        self.epoch, self.batches = self.upcoming.epoch, self.upcoming.batches
        self.upcoming.set_epoch(self.epoch + 1)
        self.start()
        # Workers start here, not when the first batch is asked for.
        batches = super(ReportingLoader, self).__iter__()
        return self._counting(self._reporting(batches, first=self.batches))

    def _counting(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self.batches += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batches": self.batches}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        n_batches = self._n_batches()
        complete = n_batches is not None and state["batches"] >= n_batches
        self.upcoming.epoch, self.upcoming.batches = state["epoch"] + complete, 0 if complete else state["batches"]


class EpochSampler(DistributedSampler):
    """The indices of one rank in the order of an epoch, from `first` on. Lightning leaves it alone: it knows ranks."""

    first = 0

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.first, None)


class EpochLoader(ResumableLoader):
    """A loader of `SeededEpochs` with an `EpochSampler`: exact whatever the number of workers, then and now."""

    def start(self) -> None:
        self.dataset.start(self.epoch)
        self.sampler.epoch, self.sampler.first = self.epoch, self.batches * self.batch_size


def ranks() -> tuple[int, int]:
    """Number of this process among those that train together, and their number."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
