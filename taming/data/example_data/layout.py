"""What all example sets share: their places, random numbers and file formats."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image

from taming.data.rendering.landscapes import LANDSCAPES, landscape
from taming.data.rendering.rooms import room
from taming.data.rendering.scene import Scene
from taming.data.rendering.stage import Stage
from taming.files import atomic_path

JPEG_QUALITY = 80
TRIES = 200


@dataclass(frozen=True)
class Recipe:
    """A scene to render: kind (see LANDSCAPES and ROOMS), size in pixels, and options of its maker."""

    kind: str
    width: int
    height: int
    things: bool = True
    most_stuff: int = 2
    depiction: bool = False
    elevation: float | None = None
    near: float = 0.0
    add: Callable[[Stage], None] | None = None

    def make(self, rng: np.random.Generator) -> Scene:
        """A random scene of this kind."""
        if self.kind not in LANDSCAPES:
            return room(rng, self.kind, self.width, self.height, depiction=self.depiction)
        view = {"elevation": self.elevation, "near": self.near}
        content = {"things": self.things, "most_stuff": self.most_stuff, "add": self.add}
        return landscape(rng, self.kind, self.width, self.height, **view, **content)

    def make_until(self, rng: np.random.Generator, accepted: Callable[[Scene], bool]) -> Scene:
        """The first random scene that will do."""
        for _ in range(TRIES):
            scene = self.make(rng)
            if accepted(scene):
                return scene
        raise AssertionError(f"no scene of {self} was good enough")


@dataclass(frozen=True)
class ExampleSet:
    """One part of the example data.

    names: what it makes below the data folder, files and folders; write(folder, seed) makes it; check(folder, seed)
    yields what is wrong with it, one line each.
    """

    names: Sequence[str]
    write: Callable[[Path, int], None]
    check: Callable[[Path, int], Iterable[str]]


def generator(dataset: str, index: int, seed: int) -> np.random.Generator:
    """The random numbers of one scene of a set."""
    return np.random.Generator(np.random.PCG64([seed, crc32(dataset.encode()), index]))


def save_jpeg(path: Path, pixels: np.ndarray) -> None:
    """uint8 (h, w, 3) or, grey, (h, w)."""
    options = {"subsampling": "4:2:0"} if pixels.ndim == 3 else {}
    with _writable(path) as file:
        Image.fromarray(pixels).save(file, format="JPEG", quality=JPEG_QUALITY, optimize=True, **options)


def save_png(path: Path, pixels: np.ndarray) -> None:
    """uint8 (h, w) as L, (h, w, 4) as RGBA."""
    with _writable(path) as file:
        Image.fromarray(pixels).save(file, format="PNG", optimize=True)


def save_text(path: Path, text: str) -> None:
    """UTF-8, with the line ends that `text` has."""
    with _writable(path) as file:
        file.write_bytes(text.encode())


def save_list(path: Path, entries: Iterable[str]) -> None:
    """One entry per line."""
    save_text(path, "".join(f"{entry}\n" for entry in entries))


def save_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with _writable(path) as file, file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, lineterminator="\n").writerows(rows)


def save_json(path: Path, content: Any) -> None:
    save_text(path, json.dumps(content, separators=(",", ":")) + "\n")


def _writable(path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_path(path)


def read_table(name: str) -> list[list[str]]:
    """Rows of a CSV file that belongs to this package."""
    with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def pixels_of(path: Path) -> tuple[str, np.ndarray]:
    """Mode and pixels of an image file."""
    with Image.open(path) as image:
        return image.mode, np.asarray(image)


def check_files(folder: Path, name: str, expected: Iterable[str]) -> Iterable[str]:
    """What is missing of the files `expected` below folder / name, and what is there besides."""
    expected = set(expected)
    there = {path.relative_to(folder / name).as_posix() for path in (folder / name).rglob("*") if path.is_file()}
    yield from (f"{folder / name / path} is missing" for path in sorted(expected - there))
    yield from (f"{folder / name / path} is in no list" for path in sorted(there - expected))
