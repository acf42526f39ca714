"""Examples of a data set under random numbers of their own, whatever process reads them, and whenever."""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import Dataset, get_worker_info


def seed_from(text: str) -> None:
    """Let `text` decide the next random numbers of Python, numpy and torch (on the CPU)."""
    random.seed(text)
    np.random.seed(random.getrandbits(32))
    torch.default_generator.manual_seed(random.getrandbits(63))


class SeededViews(Dataset):
    """The examples of a data set by (index, view), each pair under random numbers of its own."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Any:
        index, view = place
        with isolate_rng(include_cuda=False):
            seed_from(f"{self.seed}/{index}/{view}")
            return self.dataset[index]


class SeededEpochs(Dataset):
    """The examples of a data set, each under random numbers that the seed, the epoch and its index decide."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # Workers that live longer than an epoch have a copy of this object, but share this memory.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def start(self, epoch: int) -> None:
        """Say which epoch is read from now on, in this process and in its workers."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """A batch; workers have no other use for their random numbers, the training process has."""
        with nullcontext() if get_worker_info() else isolate_rng(include_cuda=False):
            return [self._read(index) for index in indices]

    def _read(self, index: int) -> Any:
        seed_from(f"{self.seed}/{int(self._epoch)}/{index}")
        return self.dataset[index]
