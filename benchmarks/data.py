"""Reading images against the published dataset, measured in one run.

    python benchmarks/data.py            # one process, one thread; about five minutes
    python benchmarks/data.py --quick    # three rounds, no targets, no file

JPEG files of 1024 x 1024 pixels to batches of 256 x 256. Nothing is timed before the pixels agree, or where they are
meant to differ, before PSNR is known. Prints a table and writes benchmarks/results/data_cpu.json. See
benchmarks/README.md for what is measured how.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from measure import add_options, circumstances, compare, format_table, interleaved, resident, start, write_json  # noqa: E402
from peer import PACKAGE, VERSION, Peer, installed  # noqa: E402

from taming.cli import run_command  # noqa: E402
from taming.data._io import read_rgb  # noqa: E402
from taming.data.base import ImagePaths  # noqa: E402
from taming.data.photos import PHOTOS  # noqa: E402
from taming.data.utils import custom_collate  # noqa: E402

SIDE, SIZE, BATCH, EPOCHS = 1024, 256, 8, 3
QUALITIES = (75, 90)
"""Pillow's default, and one at which files are twice as large: then what cannot be left out, Huffman codes, is more."""
TARGETS = {"default": 1.2, "draft": 2.0, "cache": 20.0}
LIBRARIES = ("pillow", "opencv-python-headless", "albumentations")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare the time to read images with the published dataset's.")
    add_options(parser, rounds=51)
    return parser


def write_photographs(folder: Path, quality: int) -> list[str]:
    """The pictures of scikit-image at their own scale, continued by reflection; paths of JPEG files."""
    pictures = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    paths = []
    for number, (name, _) in enumerate(PHOTOS.values()):
        picture = read_rgb(pictures / name, "benchmark")[:SIDE, :SIDE]
        # (h, w, 3) -> (SIDE, SIDE, 3)
        picture = np.pad(
            picture, [(0, SIDE - picture.shape[0]), (0, SIDE - picture.shape[1]), (0, 0)], mode="symmetric"
        )
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(picture).save(paths[-1], quality=quality)
    return paths


def datasets(peer: Peer, paths: Sequence[str], folder: Path) -> tuple[Dataset, dict[str, Dataset]]:
    """The published dataset of these images, and ours by what is asked of them."""
    published = peer.get("taming.data.base.ImagePaths")(list(paths), size=SIZE)
    ours = {
        "default": ImagePaths(paths, size=SIZE),
        "draft": ImagePaths(paths, size=SIZE, draft=True),
        "cache": ImagePaths(paths, size=SIZE, cache_dir=folder / "cache"),
    }
    return published, ours


def check(published: Dataset, ours: Mapping[str, Dataset]) -> list[float]:
    """Assert the same pixels; the PSNR in dB of each drafted image, whose pixels differ."""
    decibels = []
    for i in range(len(published)):
        expected = published[i]["image"]
        for name in ("default", "cache", "cache"):  # written, then read
            assert np.array_equal(ours[name][i]["image"], expected), f"{name}: the pixels of image {i} differ"
        error = np.mean((ours["draft"][i]["image"] - expected).astype(np.float64) ** 2)
        decibels.append(float(10 * np.log10(4 / error)))
    return decibels


def read_all(dataset: Dataset, collate: Callable) -> None:
    """One epoch."""
    for _ in DataLoader(dataset, batch_size=BATCH, collate_fn=collate):
        pass


def memory_by_epoch(dataset: Dataset) -> list[int | None]:
    """Memory in use after each of several epochs beyond that after the first one."""
    sizes = []
    for _ in range(EPOCHS + 1):
        read_all(dataset, custom_collate)
        sizes.append(resident())
    return [None if size is None else size - sizes[0] for size in sizes[1:]]


def measure(peer: Peer, quality: int, options: argparse.Namespace) -> dict:
    """Timings and what belongs to them, at one quality of the files."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_photographs(folder, quality)
        published, ours = datasets(peer, paths, folder)
        decibels = check(published, ours)
        works = {"peer": partial(read_all, published, default_collate)}
        works |= {name: partial(read_all, dataset, custom_collate) for name, dataset in ours.items()}
        times = interleaved(works, options.rounds, options.device)
        targets = {} if options.quick else TARGETS
        return {
            "timings": [
                compare(
                    f"{len(paths)} images of quality {quality}, {name}", times["peer"], times[name], targets.get(name)
                )
                for name in TARGETS
            ],
            "bytes_per_file": sum(os.path.getsize(path) for path in paths) / len(paths),
            "draft_psnr_db": decibels,
            "memory_growth_bytes": {name: memory_by_epoch(dataset) for name, dataset in ours.items()},
        }


def describe(quality: int, result: Mapping) -> str:
    """What the table does not say."""
    decibels = result["draft_psnr_db"]
    grown = {
        name: [size if size is None else round(size / 1e6, 1) for size in sizes]
        for name, sizes in result["memory_growth_bytes"].items()
    }
    return (
        f"quality {quality}: {result['bytes_per_file'] / 1000:.0f} kB per file; draft: {min(decibels):.1f} to "
        f"{max(decibels):.1f} dB PSNR, median {statistics.median(decibels):.1f}; memory in MB beyond that after an "
        f"epoch, after each of {EPOCHS} more: {grown}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    start(options)
    if options.device.type != "cpu":
        raise ValueError(f"--device {options.device}: images are read on the CPU")
    cv2.setNumThreads(options.threads)
    with installed(options.peer) as peer:
        results = {quality: measure(peer, quality, options) for quality in QUALITIES}
    print(format_table([timing for result in results.values() for timing in result["timings"]], []))
    for quality, result in results.items():
        print(describe(quality, result))
    if not options.quick:
        content = {
            "circumstances": circumstances(options.device, f"{PACKAGE} {VERSION}")
            | {"libraries": {name: metadata.version(name) for name in LIBRARIES}},
            "qualities": results,
        }
        write_json(options.results / "data_cpu.json", content)


if __name__ == "__main__":
    sys.exit(run_command(main))
