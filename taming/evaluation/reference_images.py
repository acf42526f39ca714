"""Reference images for FID by the published rule: the largest centre square, shrunk with anti-aliasing."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from taming.data._io import read_rgb
from taming.data.folder_scan import list_images
from taming.images import save_png
from taming.reports import versions, write_report

RECORD = "prepared.json"
NAME = "reference images"
THREADS = 4
PENDING = 256
"""Images on their way at a time."""


def center_square(image: np.ndarray) -> np.ndarray:
    """The largest square in the middle of (h, w, 3); an odd margin is one pixel wider at the bottom or right."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def center_bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """The largest centre square of uint8 (h, w, 3) as (size, size, 3), by Pillow's bilinear filter (anti-aliased)."""
    square = Image.fromarray(np.ascontiguousarray(center_square(image)))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


MODES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"center-bilinear": center_bilinear}


def prepare(
    source: Path, out: Path, *, size: int = 256, mode: str = "center-bilinear", progress: bool = True
) -> dict[str, object]:
    """Write the images below `source`, by `mode`, to `out`: PNG files of size x size under the same relative names.

    Finished files are skipped. Returns what `out`/prepared.json records. Raises ValueError for options out of range,
    no images, two that would become one file, and a folder that was prepared in another way; FileNotFoundError for no
    folder.
    """
    if mode not in MODES:
        raise ValueError(f"--mode {mode}: expected one of {', '.join(MODES)}")
    if size < 1:
        raise ValueError(f"--size {size}: expected at least one pixel")
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder of images")
    targets = _targets(list_images(source, NAME), out)
    record = {"source": str(source), "images": len(targets), "size": size, "mode": mode, "versions": versions()}
    _check_same(out / RECORD, record)
    out.mkdir(parents=True, exist_ok=True)
    write_report(out / RECORD, record)
    left = {name: target for name, target in targets.items() if not target.exists()}

    def write(item: tuple[str, Path]) -> None:
        name, target = item
        target.parent.mkdir(parents=True, exist_ok=True)
        save_png(target, MODES[mode](read_rgb(source / name, NAME), size))

    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=len(left), unit=" images", disable=not progress) as bar:
        items = iter(left.items())
        while part := list(islice(items, PENDING)):
            bar.update(len(list(pool.map(write, part))))
    return record


def _targets(names: list[str], out: Path) -> dict[str, Path]:
    """Relative names of the sources -> files. Raises ValueError for names that differ in the suffix only."""
    targets = {name: (out / name).with_suffix(".png") for name in names}
    if len(set(targets.values())) < len(targets):
        seen: dict[Path, str] = {}
        for name, target in targets.items():
            if seen.setdefault(target, name) != name:
                raise ValueError(f"{seen[target]} and {name} would both become {target}; rename one of them")
    return targets


def _check_same(path: Path, record: dict[str, object]) -> None:
    """Raises ValueError if the images that the file `path` is about were made from others, or in another way."""
    if not path.is_file():
        return
    try:
        old = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete the folder, or prepare another one") from error
    for key in ("source", "size", "mode"):
        if old.get(key) != record[key]:
            raise ValueError(
                f"{path}: the images there were made with {key}={old.get(key)}, not {record[key]}; "
                "keep that, or prepare another folder"
            )
