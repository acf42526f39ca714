"""Depth maps of ImageNet by MiDaS, for the datasets with depth.

    mkdir data/imagenet_depth    # or link it to a disk with room
    python scripts/extract_depth.py --split val

writes data/imagenet_depth/val/<synset>/<name>.png: inverse depths, four bytes of a float as the four channels of a
pixel. The same command goes on where an earlier one stopped; several processes (torchrun, or --shard) share the work.
MiDaS is code from the network, loaded by torch.hub at the version that --midas names.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import run_command  # noqa: E402
from taming.data._io import read_list  # noqa: E402
from taming.data.depth_maps import depth_to_rgba as depth_to_rgba  # noqa: E402
from taming.data.depth_maps import save_depth  # noqa: E402
from taming.data.imagenet import ImageNetTrain, ImageNetValidation, depth_file  # noqa: E402
from taming.data.midas import VERSION, estimate_depth, load_midas  # noqa: E402
from taming.shards import Shard, find_shard, own_device  # noqa: E402

SPLITS = {"val": ImageNetValidation, "train": ImageNetTrain}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Predict the depth of all images of ImageNet.")
    add = parser.add_argument
    add("--out", default="data/imagenet_depth", metavar="DIR", help="existing folder (default: %(default)s)")
    add("--split", default="both", choices=(*SPLITS, "both"), help="default: %(default)s, val first")
    text = "repository of MiDaS and tag; the published models are of v2.0"
    add("--midas", default=VERSION, metavar="REPO[:TAG]", help=f"{text} (default: %(default)s)")
    add("--list", metavar="TXT", help="only the images that this file lists, one <synset>/<name>.JPEG per line")
    add("--limit", type=int, help="only the first so many images of each split")
    add("--num_workers", type=int, default=2, help="processes that read images (default: %(default)s)")
    add("--shard", metavar="I/N", help="do part I, from 0, of N (default: torchrun's, or everything)")
    add("--device", default="auto", help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps (default: auto)")
    return parser


def load_splits(options: argparse.Namespace) -> dict[str, Subset]:
    """The images to predict by split: those that --list names, and no more than --limit."""
    splits = {name: dataset() for name, dataset in SPLITS.items() if options.split in (name, "both")}
    wanted = set(read_list(options.list, "--list")) if options.list else None
    if unknown := sorted((wanted or set()).difference(*(data.relpaths for data in splits.values()))):
        raise ValueError(f"--list {options.list}: {unknown[0]} is not among the images of {' and '.join(splits)}")
    chosen = {
        name: [i for i, relpath in enumerate(data.relpaths) if wanted is None or relpath in wanted]
        for name, data in splits.items()
    }
    return {name: Subset(data, chosen[name][: options.limit]) for name, data in splits.items()}


def unfinished(data: Subset, out: Path, split: str, shard: Shard) -> Subset:
    """This process's part of the images whose depth is not there yet."""
    paths = [depth_file(out, split, relpath) for relpath in data.dataset.relpaths]
    return Subset(data.dataset, [i for i in shard.part(data.indices) if not os.path.exists(paths[i])])


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    out, shard, device = Path(options.out), find_shard(options.shard), own_device(options.device)
    if not out.is_dir():
        raise FileNotFoundError(f"--out {out}: no such folder; make it, or link it to a folder on a disk with room")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: must be positive")
    splits = {name: unfinished(data, out, name, shard) for name, data in load_splits(options).items()}
    network = None
    if any(map(len, splits.values())):
        print(f"depth by MiDaS from {options.midas}", flush=True)
        network = load_midas(options.midas, device)
    for name, data in splits.items():
        items = DataLoader(data, batch_size=None, collate_fn=_unchanged, num_workers=options.num_workers)
        for item in tqdm(items, desc=name, disable=shard.index > 0):
            save_depth(depth_file(out, name, item["relpath"]), estimate_depth(network, item["image"], device))
        print(f"{out / name}: {len(data)} depth maps written")


def _unchanged(item: dict) -> dict:
    return item


if __name__ == "__main__":
    sys.exit(run_command(main))
