"""Making and checking the example data as a whole."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from taming.data.example_data import documents
from taming.data.example_data.coco_scenes import COCO_SCENES
from taming.data.example_data.depth_examples import DRIN
from taming.data.example_data.layout import ExampleSet
from taming.data.example_data.maps import ADE20K, COCO, SFLCKR
from taming.data.example_data.open_images_scenes import OPEN_IMAGES
from taming.data.example_data.photographs import CUSTOM
from taming.data.imagenet import DRINExamples

logger = logging.getLogger(__name__)

SETS: dict[str, ExampleSet] = {
    "ade20k": ADE20K.as_set(),
    "coco": COCO.as_set(),
    "sflckr": SFLCKR.as_set(),
    "drin": DRIN,
    "coco_scenes": COCO_SCENES,
    "open_images": OPEN_IMAGES,
    "custom": CUSTOM,
}
MOST_BYTES = 3_000_000
METADATA = ("exif", "comment", "icc_profile", "xmp", "Software")


def make(folder: Path, *, seed: int = 0, only: Sequence[str] = (), force: bool = False) -> None:
    """Write all sets, or those in `only`, into `folder`. Raises FileExistsError if one is there, unless `force`."""
    chosen = [SETS[name] for name in only or SETS]
    names = [*(name for each in chosen for name in each.names), *(documents.NAMES if not only else ())]
    there = [folder / name for name in names if (folder / name).exists()]
    if there and not force:
        raise FileExistsError(f"{there[0]} exists; --force replaces it, --only makes other sets")
    for name in only or SETS:
        logger.info("making %s", name)
        SETS[name].write(folder, seed)
    if not only:
        documents.write(folder)


def check(folder: Path, *, seed: int = 0, only: Sequence[str] = ()) -> list[str]:
    """What is wrong with the example data in `folder`, one line each: files, values, boxes against the scenes."""
    failures = []
    for name in only or SETS:
        failures += _check_set(name, folder, seed)
    if not only:
        failures += [f"{folder / name} is missing" for name in documents.NAMES if not (folder / name).is_file()]
    files = [path for path in _files(folder, only) if not path.is_symlink()]
    total = sum(path.stat().st_size for path in files)
    if total >= MOST_BYTES:
        failures.append(f"{folder} has {total:,} bytes, {MOST_BYTES:,} or more")
    return failures + [failure for path in files for failure in _check_metadata(path)]


def _check_set(name: str, folder: Path, seed: int) -> list[str]:
    """What is wrong with the files, or if nothing is, with reading them as demos do."""
    try:
        return list(SETS[name].check(folder, seed)) or list(_check_loading(name, folder))
    except (OSError, ValueError) as error:
        return [f"{name}: {error}"]


def _check_loading(name: str, folder: Path) -> Iterator[str]:
    """Load every example with the data set that demos read it by."""
    readers = {"ade20k": ADE20K.examples, "coco": COCO.examples, "sflckr": SFLCKR.examples, "drin": DRINExamples}
    if name not in readers:
        return
    if folder.name != "data":
        logger.info("%s: not read as its data set does, which looks in data/ only", name)
        return
    with _inside(folder.resolve().parent):
        examples = readers[name]()
        for index in range(len(examples)):
            examples[index]
        if len(examples) != 6:
            yield f"{name}: {len(examples)} examples, not 6"


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in a folder: the data sets of examples know theirs by its relative path."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _files(folder: Path, only: Sequence[str]) -> Iterable[Path]:
    names = [name for each in (only or SETS) for name in SETS[each].names]
    names += [] if only else documents.NAMES
    for name in names:
        path = folder / name
        yield from (sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else [])


def _check_metadata(path: Path) -> Iterator[str]:
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        return
    try:
        with Image.open(path) as image:
            found = [key for key in METADATA if key in image.info] + list(getattr(image, "text", {}))
    except OSError as error:
        yield f"{path} cannot be read: {error}"
        return
    if found:
        yield f"{path} has metadata: {', '.join(found)}"
