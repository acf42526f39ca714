"""Epochs of map-style data: decided by seed, epoch and index alone, begun anywhere, shared by ranks."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from taming.data import datamodule
from taming.data.datamodule import DataModuleFromConfig


class Noisy(Dataset):
    """Its index and a random number of each kind."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)


def loader(workers=0, split="train"):
    torch.manual_seed(5)
    noisy = {"target": f"{__name__}.Noisy"}
    data = DataModuleFromConfig(batch_size=4, train=noisy, validation=noisy, num_workers=workers)
    data.setup()
    return {"train": data.train_dataloader, "validation": data.val_dataloader}[split]()


def epochs(loader, count=2):
    return [[batch.tolist() for batch in loader] for _ in range(count)]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_epochs_are_the_same_whatever_reads_them(split):
    expected = epochs(loader(split=split))
    assert epochs(loader(2, split)) == expected
    first, second = (np.concatenate(epoch) for epoch in expected)
    assert sorted(first[:, 0]) == sorted(second[:, 0]) == list(range(11))
    assert (first[:, 0].tolist() == list(range(11))) == (split == "validation")
    numbers = np.concatenate([first, second])[:, 1:]
    assert len(np.unique(numbers)) == numbers.size  # no two examples, epochs or kinds share them


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_in_an_epoch_and_then_with_the_next(workers):
    whole = loader()
    first, second = epochs(whole)
    batches = iter(whole)
    state = whole.state_dict()
    assert state == {"epoch": 2, "batches": 0} and next(batches) is not None
    resumed = loader(workers)
    resumed.load_state_dict({"epoch": 0, "batches": 1})
    assert len(resumed) == 3
    assert epochs(resumed) == [first[1:], second]
    resumed.load_state_dict({"epoch": 0, "batches": 3})  # its end
    assert epochs(resumed, 1) == [second]


def test_lightning_names_the_epoch():
    one, other = loader(), loader()
    expected = epochs(one, 4)[3]
    other.sampler.set_epoch(3)
    assert epochs(other, 1) == [expected]


def test_reading_leaves_the_random_numbers_of_the_process_alone():
    batches = iter(loader())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    next(batches)
    assert torch.equal(torch.rand(3), expected)


def test_ranks_share_the_batches_of_one_process_that_is_twice_as_large(monkeypatch):
    whole = [batch[:, 0].tolist() for batch in loader()]
    halves = []
    for rank in range(2):
        monkeypatch.setattr(datamodule, "ranks", lambda rank=rank: (rank, 2))
        halves.append([batch[:, 0].tolist() for batch in loader()])
    assert set(halves[0][0] + halves[1][0]) == set(whole[0] + whole[1])


def test_the_seed_of_a_checkpoint_is_kept():
    torch.manual_seed(5)
    data = DataModuleFromConfig(batch_size=4, train={"target": f"{__name__}.Noisy"}, num_workers=0)
    torch.manual_seed(6)
    other = DataModuleFromConfig(batch_size=4, train={"target": f"{__name__}.Noisy"}, num_workers=0)
    other.load_state_dict(data.state_dict())
    for module in (data, other):
        module.setup()
    assert epochs(data.train_dataloader(), 1) == epochs(other.train_dataloader(), 1)
