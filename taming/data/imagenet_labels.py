"""Classes of ImageNet: their indices, synsets and names."""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from taming.config_errors import one_line
from taming.data._io import read_list
from taming.data.imagenet_preparation import fetch

logger = logging.getLogger(__name__)

HUMAN_URL = "https://heibox.uni-heidelberg.de/f/9f28e956cd304264bb82/?dl=1"
HUMAN_SIZE = 2655750
INDEX_URL = "https://heibox.uni-heidelberg.de/f/d835d5b6ceda4d3aa910/?dl=1"
N_CLASSES = 1000


def str_to_indices(string: str) -> list[int]:
    """Sorted class indices of a text such as `32-35, 5, 40-41`; `a-b` leaves out b, so those are 5, 32, 33, 34, 40.

    Raises ValueError for anything else, a trailing comma included.
    """
    indices = []
    for item in string.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", re.sub(r"\s", "", item))
        if match is None:
            raise ValueError(f"sub_indices {string!r}: {item.strip()!r} is neither an index nor a range a-b")
        first, end = int(match[1]), match[2]
        indices += [first] if end is None else range(first, int(end))
    return sorted(indices)


def give_synsets_from_indices(
    indices: Iterable[int], path_to_yaml: str | os.PathLike = "data/imagenet_idx_to_synset.yaml"
) -> list[str]:
    """The synsets that a YAML file maps these indices to; ValueError for an index that it does not have."""
    try:
        synsets = yaml.safe_load(Path(path_to_yaml).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path_to_yaml}: not valid YAML: {one_line(error)}") from error
    if not isinstance(synsets, dict):
        raise ValueError(f"{path_to_yaml}: expected a mapping of class indices to synsets")
    chosen = [str(synsets[index]) for index in _known(indices, synsets, str(path_to_yaml))]
    logger.info("%d classes chosen by their indices", len(chosen))
    return chosen


def _known(indices: Iterable[int], known: Iterable[int], where: str) -> list[int]:
    indices, known = list(indices), set(known)
    unknown = [index for index in indices if index not in known]
    if unknown:
        raise ValueError(f"sub_indices: {where} has no class of index {unknown[0]}")
    return indices


def chosen_synsets(string: str, path: Path, present: Sequence[str], *, dataset: str) -> list[str]:
    """The synsets of `sub_indices`, by the published file at `path`, which is downloaded if missing.

    `present` are the sorted synsets that have images: where the file cannot be had they stand for it if they are all
    1000 (which is the true order; the published file names other synsets for 72 indices). Otherwise FileNotFoundError.
    """
    fetch(INDEX_URL, path, None, dataset=dataset)
    indices = str_to_indices(string)
    if path.is_file():
        chosen = give_synsets_from_indices(indices, path)
    elif len(present) == N_CLASSES:
        logger.warning("%s: no %s, classes are counted along the sorted synset folders", dataset, path)
        chosen = [present[index] for index in _known(indices, range(N_CLASSES), "ImageNet")]
    else:
        raise FileNotFoundError(
            f"{dataset}: sub_indices needs {path}, which is missing and cannot be downloaded;"
            f" place the file of {INDEX_URL} there, or use all {N_CLASSES} classes (there are {len(present)})"
        )
    absent = sorted(set(chosen) - set(present))
    if absent:
        logger.warning("%s: %d chosen classes have no image: %s", dataset, len(absent), ", ".join(absent))
    return chosen


def human_names(synsets: Iterable[str], path: Path, *, dataset: str) -> list[str]:
    """The name of each synset by the file at `path`, which is downloaded if missing; without it the synset itself."""
    fetch(HUMAN_URL, path, HUMAN_SIZE, dataset=dataset)
    if not path.is_file():
        logger.warning(
            "%s: no names of classes, since there is no %s; place the file of %s there", dataset, path, HUMAN_URL
        )
        return list(synsets)
    lines = (line.split(maxsplit=1) for line in read_list(path, dataset))
    names = {fields[0]: fields[1] for fields in lines if len(fields) > 1}
    return [names.get(synset, synset) for synset in synsets]
