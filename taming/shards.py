"""Work that several processes share without talking to each other: which part is whose, and on which device."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch

from taming.cli import select_device

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `index`, from 0, of `count` equal parts. Raises ValueError if there is no such part."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard {self.index}/{self.count}: i/n needs 0 <= i < n, shards are counted from 0")

    def part(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every count-th of the items. All parts together are all items if each process passes the same sequence."""
        return islice(items, self.index, None, self.count)


WHOLE = Shard()
"""All of the work, in a single process."""


def find_shard(text: str | None = None) -> Shard:
    """The shard that `text` ("i/n", of `--shard`) names, else that of this process under torchrun, else the whole.

    Raises ValueError for anything but i/n with 0 <= i < n, and if there is a text under torchrun.
    """
    world_size = os.environ.get("WORLD_SIZE", "1")
    if text is None:
        return Shard(int(os.environ.get("RANK", "0")), int(world_size))
    if world_size != "1":
        raise ValueError(
            f"--shard {text}: the {world_size} processes of torchrun have their shards already, leave it out"
        )
    match = re.fullmatch("([0-9]+)/([0-9]+)", text)
    if match is None:
        raise ValueError(f"--shard {text}: expected i/n, such as 0/4 for the first of four")
    return Shard(int(match[1]), int(match[2]))


def own_device(name: str) -> torch.device:
    """The device that `--device` names, as `select_device`; each process of torchrun gets a CUDA device of its own."""
    device = select_device(name)
    if device.type == "cuda" and device.index is None:
        device = select_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
