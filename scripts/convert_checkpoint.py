"""A checkpoint in another format: .ckpt (also .pt, .pth) to .safetensors, or the other way round.

    python scripts/convert_checkpoint.py logs/<run>/checkpoints/last.ckpt vqgan.safetensors

A .safetensors file holds the weights and the global step; what training would go on with (optimizers, loops) is not
kept. Nothing in the file that is read is executed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.checkpoint import convert_checkpoint  # noqa: E402
from taming.cli import run_command  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Convert a checkpoint to the format that OUT's suffix names.")
    parser.add_argument("source", metavar="IN", help="checkpoint to read")
    parser.add_argument("target", metavar="OUT", help="file to write: .safetensors, or .ckpt, .pt, .pth")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    convert_checkpoint(options.source, options.target, overwrite=options.overwrite)
    print(f"{options.target}: {Path(options.target).stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    sys.exit(run_command(main))
