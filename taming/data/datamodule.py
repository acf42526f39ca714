"""Data sets by config, as the loaders of a Lightning Trainer."""

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from taming.config import instantiate_from_config
from taming.data.resumable import EpochLoader, EpochSampler, ranks
from taming.data.seeded import SeededEpochs
from taming.data.streams import Stream, StreamLoader
from taming.data.utils import custom_collate

SPLITS = {"train": "train_dataloader", "validation": "val_dataloader", "test": "test_dataloader"}


class WrappedDataset(Dataset):
    """Hides everything of a data set but its length and its items; `data` is the data set itself."""

    def __init__(self, dataset: Dataset) -> None:
        self.data = dataset

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, idx: int) -> Any:
        return self.data[idx]


class DataModuleFromConfig(pl.LightningDataModule):
    """A loader for each split that is configured; only the one for training shuffles. Streams shuffle by themselves.

    train, validation, test: target configs of data sets. num_workers: processes per loader, twice the batch size by
    default but never more than there are processors to run them. The order of an epoch and the random numbers of an
    example depend on the seed that torch was given last, the epoch and the example's index, on nothing else; see
    `EpochLoader`. Raises ValueError for a batch size below 1, no split, or an empty data set.
    """

    def __init__(
        self,
        batch_size: int,
        train: Mapping | None = None,
        validation: Mapping | None = None,
        test: Mapping | None = None,
        wrap: bool = False,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a batch needs at least one example")
        self.batch_size = batch_size
        self.num_workers = min(2 * batch_size, _processors()) if num_workers is None else num_workers
        self.wrap = wrap
        self.seed = torch.initial_seed()
        configs = {"train": train, "validation": validation, "test": test}
        self.dataset_configs = {split: config for split, config in configs.items() if config is not None}
        if not self.dataset_configs:
            raise ValueError("no data: give at least one of train, validation and test")
        self.datasets: dict[str, Dataset] = {}
        for split in self.dataset_configs:  # Lightning skips loaders that are not there, and complains of empty ones
            setattr(self, SPLITS[split], getattr(self, f"_{SPLITS[split]}"))

    def prepare_data(self) -> None:
        """Build the data sets, which lets those that prepare files on disk do so in one process first."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Build the data sets that are not there yet."""
        for split, config in self.dataset_configs.items():
            if split not in self.datasets:
                dataset = instantiate_from_config(config)
                is_stream = isinstance(dataset, IterableDataset)
                if not is_stream and len(dataset) == 0:
                    raise ValueError(f"data.params.{split}: {config['target']} is empty")
                self.datasets[split] = WrappedDataset(dataset) if self.wrap and not is_stream else dataset

    def _train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True)

    def _val_dataloader(self) -> DataLoader:
        return self._loader("validation")

    def _test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def _loader(self, split: str, shuffle: bool = False) -> DataLoader:
        dataset = self.datasets[split]
        how = {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "collate_fn": custom_collate,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": self.num_workers > 0,
        }
        if isinstance(dataset, IterableDataset):
            return (StreamLoader if isinstance(dataset, Stream) else DataLoader)(dataset, **how)
        rank, n_ranks = ranks()
        shuffle = shuffle and not (self.trainer and self.trainer.overfit_batches)  # which are the same in each epoch
        sampler = EpochSampler(dataset, num_replicas=n_ranks, rank=rank, shuffle=shuffle, seed=self.seed)
        return EpochLoader(SeededEpochs(dataset, self.seed), sampler=sampler, **how)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        self.seed = state_dict["seed"]


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
