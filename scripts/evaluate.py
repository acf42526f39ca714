"""Figures that are published for samples and reconstructions, from their files.

    python scripts/evaluate.py prepare --source <ImageNet>/train --out reference --size 256
    python scripts/evaluate.py fid --input1 <samples> --input2 reference --recursive --isc --json fid.json
    python scripts/evaluate.py reconstructions <folder of make_reconstructions.py> --json reconstructions.json

fid compares samples (input1) with a reference (input2) by torch-fidelity. What it computes of the reference is kept,
and with --name it may be asked for by that name later. JSON files hold the figures with everything that produced them.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import add_device_options, run_command  # noqa: E402
from taming.evaluation.fidelity import CACHE, FidelityOptions, evaluate  # noqa: E402
from taming.evaluation.reconstructions import measure_reconstructions, paired_names  # noqa: E402
from taming.evaluation.reference_images import MODES, prepare  # noqa: E402
from taming.modules.losses.lpips import LPIPS  # noqa: E402
from taming.reports import write_report  # noqa: E402
from taming.shards import own_device  # noqa: E402

METRICS = {"isc": "Inception score", "kid": "kernel Inception distance", "prc": "precision and recall"}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure samples and reconstructions.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_fid(commands.add_parser("fid", help="compare samples with a reference: FID and, if asked for, others"))
    add_prepare(commands.add_parser("prepare", help="make reference images"))
    add_reconstructions(commands.add_parser("reconstructions", help="PSNR, SSIM, LPIPS, codes in use"))
    return parser


def add_fid(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--input1", required=True, type=Path, metavar="DIR", help="samples or reconstructions, PNG or JPEG files")
    add("--input2", required=True, metavar="DIR|NAME", help="the reference: a folder, or a name from --name before")
    for metric, text in METRICS.items():
        add(f"--{metric}", action="store_true", help=f"{text}, too")
    add("--recursive", action="store_true", help="read the folders in the folders, too, those of classes for example")
    add("--name", help="from now on this name may stand for the reference")
    text = "a network of torch-fidelity, or the dotted name of a feature extractor"
    add("--features", metavar="NET", help=f"{text} (default: torch-fidelity's for each metric)")
    add("--weights", type=Path, metavar="FILE", help="weights of the network (default: downloaded by torch-fidelity)")
    add("--kid_subset_size", type=int, default=1000, help="images per subset of KID (default: %(default)s)")
    add("--save_cpu_ram", action="store_true", help="less memory, for precision and recall of many images; slower")
    add("--cache_root", type=Path, default=CACHE, metavar="DIR", help="what is kept (default: %(default)s)")
    add_common(parser, fid, batch_size=64)


def add_prepare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", required=True, type=Path, metavar="DIR", help="folder of images, also in the folders in it")
    add("--out", required=True, type=Path, metavar="DIR", help="folder that gets PNG files")
    add("--size", type=int, default=256, help="pixels per side (default: %(default)s)")
    add("--mode", choices=MODES, default=next(iter(MODES)), help="the rule (default: %(default)s)")
    parser.set_defaults(run=make_reference)


def add_reconstructions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the --outdir of scripts/make_reconstructions.py")
    parser.add_argument("--no_lpips", action="store_true", help="without LPIPS, whose VGG-16 weights are downloaded")
    add_common(parser, reconstructions, batch_size=16)


def add_common(parser: argparse.ArgumentParser, run: Callable, *, batch_size: int) -> None:
    parser.add_argument("--batch_size", type=int, default=batch_size, help="images at a time (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a report to this file as well")
    add_device_options(parser, precision=False)
    parser.set_defaults(run=run)


def fid(options: argparse.Namespace) -> None:
    chosen = ("features", "weights", "batch_size", "cache_root", "kid_subset_size", "save_cpu_ram")
    metrics = ("fid", *(metric for metric in METRICS if getattr(options, metric)))
    settings = FidelityOptions(metrics=metrics, **{name: getattr(options, name) for name in chosen})
    more = {"recursive": options.recursive, "name": options.name, "device": own_device(options.device)}
    report(evaluate(options.input1, options.input2, settings, **more), options.json)


def make_reference(options: argparse.Namespace) -> None:
    record = prepare(options.source, options.out, size=options.size, mode=options.mode)
    print(f"{options.out}: {record['images']} images of {options.size}x{options.size}, {options.mode}")


def reconstructions(options: argparse.Namespace) -> None:
    device, lpips = own_device(options.device), None
    paired_names(options.folder)  # a wrong folder is told before a network is downloaded
    if not options.no_lpips:
        try:
            lpips = LPIPS.from_pretrained().to(device)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or leave LPIPS out by --no_lpips") from error
    report(measure_reconstructions(options.folder, lpips=lpips, batch_size=options.batch_size), options.json)


def report(result: dict, path: Path | None) -> None:
    print(f"preprocessing: {result['preprocessing']}")
    for name, value in result["metrics"].items():
        print(f"{name}: {value:.7g}")
    if path:
        write_report(path, result)


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    options.run(options)


if __name__ == "__main__":
    sys.exit(run_command(main))
