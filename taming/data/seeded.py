"""Examples of a data set under random numbers of their own, whatever process reads them, and whenever."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import Dataset


class SeededViews(Dataset):
    """The examples of a data set by (index, view), each pair under random numbers of its own."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Any:
        index, view = place
        with isolate_rng(include_cuda=False):
            random.seed(f"{self.seed}/{index}/{view}")
            np.random.seed(random.getrandbits(32))
            torch.default_generator.manual_seed(random.getrandbits(63))
            return self.dataset[index]
