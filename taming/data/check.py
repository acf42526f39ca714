"""Reading all of a dataset to find what is wrong with it before training does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from taming.config_errors import one_line
from taming.data.faults import FAULTS, policies_of
from taming.data.streams import Stream
from taming.data.utils import custom_collate

IMAGE_RANGE = (-1.0, 1.0)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one item; `index` is None where items have none."""

    index: int | None
    message: str


@dataclass(frozen=True)
class Findings:
    """An item's own problem, or else what it has in common with other items or should have."""

    index: int
    problem: str | None = None
    path: str | None = None
    keys: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None


class _Probe(Dataset):
    """Findings instead of items."""

    def __init__(self, dataset: Dataset, length: int) -> None:
        self.dataset = dataset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Findings:
        return examine(self.dataset, index)


def find_problems(
    dataset: Dataset, *, batched: bool = True, workers: int = 0, limit: int | None = None
) -> Iterator[Problem]:
    """All problems of a dataset, in the order of its items, or of its first `limit` ones.

    Items that cannot be read (whatever its `on_error` says) or collated, images that are no finite float32 in [-1, 1],
    items with other keys than the first, files that are there twice, and with `batched`, images of another shape than
    the first. Of a stream, what cannot be read.
    """
    if isinstance(dataset, Stream):
        yield from (Problem(None, message) for message in dataset.problems(limit))
        return
    for policy in policies_of(dataset):
        policy.on_error = "raise"
    length = len(dataset) if limit is None else min(limit, len(dataset))
    loader = DataLoader(_Probe(dataset, length), batch_size=None, num_workers=workers)
    yield from _compared(loader, batched=batched)


def examine(dataset: Dataset, index: int) -> Findings:
    """Read one item and look at it alone."""
    try:
        item = dataset[index]
        custom_collate([item])
    except FAULTS as error:
        return Findings(index, one_line(error))
    except Exception as error:  # whatever it is, the scan goes on and shows it
        return Findings(index, f"{type(error).__name__}: {one_line(error)}")
    if not isinstance(item, Mapping):
        return Findings(index)
    image = item.get("image")
    problem = None if image is None else _problem_of_image(np.asarray(image), item)
    path = item.get("file_path_")
    keys, shape = tuple(item), None if image is None else tuple(image.shape)
    return Findings(index, problem, None if path is None else str(path), keys, shape)


def _problem_of_image(image: np.ndarray, item: Mapping[str, Any]) -> str | None:
    where = f"image {item['file_path_']}" if "file_path_" in item else "the image"
    if image.dtype != np.float32:
        return f"{where} has type {image.dtype} instead of float32"
    low, high = image.min(), image.max()
    # NaN fails both comparisons.
    if not (low >= IMAGE_RANGE[0] and high <= IMAGE_RANGE[1]):
        return f"{where} has values from {low} to {high}; expected -1 to 1"
    return None


def _compared(findings: Iterator[Findings] | DataLoader, *, batched: bool) -> Iterator[Problem]:
    first: Findings | None = None
    indices: dict[str, int] = {}
    for found in findings:
        if found.problem is not None:
            yield Problem(found.index, found.problem)
            continue
        first = first or found
        if found.keys != first.keys:
            keys = f"{', '.join(found.keys)} instead of {', '.join(first.keys)}"
            yield Problem(found.index, f"the item has other keys than that of index {first.index}: {keys}")
        if batched and found.shape != first.shape:
            yield Problem(
                found.index,
                f"{found.path or 'the image'} comes as {_text(found.shape)}, index {first.index} as "
                f"{_text(first.shape)}: they cannot be in one batch; set size, or batch_size=1",
            )
        if found.path is not None and indices.setdefault(found.path, found.index) != found.index:
            yield Problem(found.index, f"{found.path} is also at index {indices[found.path]}")


def _text(shape: tuple[int, ...] | torch.Size | None) -> str:
    return "no image" if shape is None else " x ".join(map(str, shape))
