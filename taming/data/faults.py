"""What happens to items that cannot be read: an error that says which one, or another item in their place."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from taming.config import instantiate_from_config

logger = logging.getLogger(__name__)

POLICIES = ("raise", "skip")
FAULTS = (OSError, ValueError)
"""How datasets report files that are missing or cannot be used."""
MAX_IN_A_ROW = 100
"""Faulty items in a row after which there is something wrong with all of them."""
MAX_SHOWN = 10

FINE, EARLIER, NOW = 0, 1, 2


def dotted_name(dataset_class: type) -> str:
    """Module and name of a dataset class, as configs write it."""
    return f"{dataset_class.__module__}.{dataset_class.__qualname__}"


def check_policy(on_error: str, name: str) -> str:
    """`on_error` if there is such a policy; ValueError if not."""
    if on_error not in POLICIES:
        raise ValueError(f"{name}: on_error is {on_error!r}; expected {' or '.join(POLICIES)}")
    return on_error


def warn_of_skipped(error: Exception, count: int) -> None:
    """Log what was wrong with the `count`-th faulty item, unless there have been many."""
    if count <= MAX_SHOWN:
        logger.warning("skipped: %s%s", error, "; further ones are only counted" if count == MAX_SHOWN else "")


class FaultPolicy:
    """What a dataset of `length` items, called `name` in messages, does about those that cannot be read.

    With `on_error="raise"` the error gets the index. With `"skip"` the next item that can be read takes the place, so
    every run replaces alike; each faulty item is told once, and `report` says how many there were in an epoch. Which
    items are faulty is kept in memory that all workers share. Raises ValueError for any other `on_error`.
    """

    def __init__(self, on_error: str, name: str, length: int) -> None:
        self.on_error = check_policy(on_error, name)
        self.name = name
        self.length = length
        self.states = torch.zeros(length if on_error == "skip" else 0, dtype=torch.uint8).share_memory_()

    def item(self, read: Callable[[int], Any], index: int) -> Any:
        """`read(index)`, or what stands for it. OSError and ValueError are faults, other exceptions mistakes."""
        if self.on_error == "raise":
            return _read(read, index)
        if not -self.length <= index < self.length:
            raise IndexError(f"{self.name}: index {index} of {self.length} items")
        index %= self.length
        for candidate in range(index, index + min(self.length, MAX_IN_A_ROW)):
            try:
                return _read(read, candidate % self.length)
            except FAULTS as error:
                self._note(candidate % self.length, error)
                last = error
        raise ValueError(f"{self.name}: from index {index} on, not one of {candidate - index + 1} can be read: {last}")

    def _note(self, index: int, error: Exception) -> None:
        new = self.states[index] == FINE
        self.states[index] = NOW
        if new:
            warn_of_skipped(error, int((self.states != FINE).sum()))

    def report(self) -> None:
        """Log how many items have been replaced since the last report, if any."""
        indices = (self.states == NOW).nonzero().flatten().tolist()
        self.states[indices] = EARLIER
        if indices:
            shown = ", ".join(map(str, indices[:MAX_SHOWN])) + (", ..." if len(indices) > MAX_SHOWN else "")
            logger.warning(
                "%s: %d of %d items could not be read in this epoch and were replaced: %s",
                *(self.name, len(indices), self.length, shown),
            )


def _read(read: Callable[[int], Any], index: int) -> Any:
    try:
        return read(index)
    except FAULTS as error:
        place = f" (index {index})"
        message = str(error)
        kinds = (FileNotFoundError, OSError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(message if message.endswith(place) else message + place) from error


class SkipFaulty(Dataset):
    """Any dataset under a policy for items that cannot be read; see `FaultPolicy`. In a config:

        target: taming.data.faults.SkipFaulty
        params:
          data:
            target: taming.data.coco.CocoImagesAndCaptionsTrain
            params: {size: 256}

    `data` is a dataset or a target config of one, `on_error` is `skip` or `raise`. The attribute `data` is the dataset.
    """

    def __init__(self, data: Dataset | Mapping[str, Any], *, on_error: str = "skip") -> None:
        self.data = instantiate_from_config(data) if isinstance(data, Mapping) else data
        name = getattr(self.data, "name", None) or dotted_name(type(self.data))
        self.faults = FaultPolicy(on_error, name, len(self.data))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Any:
        return self.faults.item(self.data.__getitem__, i)


def policies_of(dataset: Any) -> list[Any]:
    """Everything of a dataset, and of those that it is made of, that can report what it has skipped."""
    policy = getattr(dataset, "faults", None)
    found = [policy] if policy is not None and policy.on_error == "skip" else []
    inner = [getattr(dataset, "data", None), getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())]
    for part in inner:
        if isinstance(part, Dataset):
            found += policies_of(part)
    return found


class ReportingLoader(DataLoader):
    """A loader that, with the last batch of an epoch, has its dataset report what was skipped."""

    def __iter__(self) -> Iterator[Any]:
        return self._reporting(super().__iter__(), first=0)

    def _reporting(self, batches: Iterator[Any], *, first: int) -> Iterator[Any]:
        """The same batches, numbered from `first`."""
        n_batches = self._n_batches()
        for number, batch in enumerate(batches, start=first + 1):
            # Lightning stops at the last batch, without asking whether there is another one.
            if number == n_batches:
                self._report()
            yield batch
        if n_batches is None:
            self._report()

    def _n_batches(self) -> int | None:
        try:
            return len(self)
        except TypeError:
            return None

    def _report(self) -> None:
        for policy in policies_of(self.dataset):
            policy.report()
