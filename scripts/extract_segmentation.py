"""Label maps of images, such as those of S-FLCKR, by a network for semantic segmentation.

    python scripts/extract_segmentation.py data/sflckr_segmentations --ckpt <weights of DeepLab v2>
    python scripts/extract_segmentation.py maps --network deeplabv3 --data_csv images.txt --data_root .

writes <DIR>/<path in the list without its suffix>.png, 8-bit maps of class numbers. The published models were trained
on those of DeepLab v2, with 182 classes of COCO-Stuff: its code comes from the network by torch.hub, its weights from
--ckpt. torchvision's DeepLab v3 needs neither, but its 21 classes of Pascal VOC are for models that you train yourself.
Maps that are there are kept, so the same command goes on where an earlier one stopped.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import run_command, select_device  # noqa: E402
from taming.data._io import read_list  # noqa: E402
from taming.data.base import ImagePaths  # noqa: E402
from taming.data.segmenters import DEEPLAB_V2_WEIGHTS, Segmenter, load_deeplab_v2, load_deeplab_v3  # noqa: E402
from taming.images import save_png  # noqa: E402

SOME_FAILED = 1
NETWORKS = ("deeplabv2", "deeplabv3")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Segment images: one label map for each image of a list.")
    add = parser.add_argument
    add("outdir", metavar="DIR", type=Path, help="folder that gets the label maps")
    text = "deeplabv2, 182 classes of COCO-Stuff, or torchvision's deeplabv3, 21 classes of Pascal VOC"
    add("--network", default="deeplabv2", choices=NETWORKS, help=f"{text} (default: %(default)s)")
    add("--ckpt", default=os.environ.get("DEEPLAB_CKPT"), help="weights of deeplabv2 (default: $DEEPLAB_CKPT)")
    add("--data_csv", default="data/sflckr_examples.txt", help="list of images, one per line (default: %(default)s)")
    add("--data_root", default="data/sflckr_images", help="folder that their paths start from (default: %(default)s)")
    text = "shorter side that the network sees (default: the image's own); maps are as large as their images"
    add("--segmentation_size", type=int, metavar="PIXELS", help=text)
    add("--device", default="auto", help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps (default: auto)")
    add("--overwrite", action="store_true", help="replace maps that are there")
    return parser


def load_segmenter(options: argparse.Namespace, device: torch.device) -> Segmenter:
    if options.network == "deeplabv3":
        return load_deeplab_v3(device)
    if not options.ckpt:
        raise ValueError(
            f"deeplabv2 needs its weights: download {DEEPLAB_V2_WEIGHTS} and name the file with --ckpt or in the"
            " environment variable DEEPLAB_CKPT"
        )
    return load_deeplab_v2(options.ckpt, device)


def map_paths(outdir: Path, entries: Sequence[str]) -> dict[str, Path]:
    """Where the map of each entry goes. Raises ValueError for entries that leave the folder or share a map."""
    owners: dict[Path, str] = {}
    for entry in dict.fromkeys(entries):
        relative = PurePosixPath(entry)
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(
                f"--data_csv: {entry}: list paths relative to --data_root, without .., for maps in {outdir}"
            )
        path = outdir / relative.with_suffix(".png")
        if path in owners:
            raise ValueError(f"--data_csv: {owners[path]} and {entry} have the same map {path}; rename one of them")
        owners[path] = entry
    return {entry: path for path, entry in owners.items()}


def segment_all(segmenter: Segmenter, images: ImagePaths, maps: Sequence[Path], size: int | None) -> list[str]:
    """Write the map of each image; what is wrong with those that have none, one line each."""
    failures = []
    for path, target in zip(tqdm(images.labels["file_path_"], desc="segmenting"), maps, strict=True):
        try:
            labels = segmenter(images.preprocess_image(path), size)
        except (OSError, ValueError, RuntimeError) as error:  # the last where the network cannot take the image
            failures.append(f"{path}: {' '.join(str(error).split())}")
            tqdm.write(failures[-1], file=sys.stderr)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        save_png(target, labels)
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    options = get_parser().parse_args(argv)
    if options.segmentation_size is not None and options.segmentation_size < 1:
        raise ValueError(f"--segmentation_size {options.segmentation_size}: must be positive")
    device = select_device(options.device)
    maps = map_paths(options.outdir, read_list(options.data_csv, "--data_csv"))
    waiting = [entry for entry, path in maps.items() if options.overwrite or not path.exists()]
    print(f"{len(maps) - len(waiting)} of {len(maps)} maps are there, {len(waiting)} to make")
    if not waiting:
        return 0
    segmenter = load_segmenter(options, device)
    paths = [os.path.join(options.data_root, entry) for entry in waiting]
    images = ImagePaths(paths, name="extract_segmentation", hint=f"it is listed in {options.data_csv}")
    failures = segment_all(segmenter, images, [maps[entry] for entry in waiting], options.segmentation_size)
    print(f"{len(waiting) - len(failures)} maps written to {options.outdir}")
    if failures:
        print("\n".join([f"{len(failures)} images without a map:", *failures]), file=sys.stderr)
    return SOME_FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
