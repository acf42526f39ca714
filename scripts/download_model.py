"""Published models: download one into a run folder, list all, or check one for damage.

    python scripts/download_model.py vqgan_imagenet_f16_16384 --root logs
    python scripts/download_model.py --list
    python scripts/download_model.py --verify vqgan_imagenet_f16_16384

An interrupted download goes on where it stopped when the command is given again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import run_command  # noqa: E402
from taming.pretrained import fetch, verify  # noqa: E402
from taming.published import MODELS  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Download, list and check published models.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", metavar="NAME", help="download this model, unless it is there already")
    what.add_argument("--list", action="store_true", help="show all models")
    what.add_argument("--verify", metavar="NAME", help="compare the checkpoint of this model with its SHA-256")
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="folder of run folders (default: where the model is; new ones: $TAMING_MODELS, else ~/.cache/taming)",
    )
    return parser


def describe_all() -> str:
    """A line per model, marked by how its files are had."""
    lines = []
    for model in MODELS:
        source = "direct" if model.files else "by hand"
        notes = f" ({model.notes})" if model.notes else ""
        lines.append(f"{model.name:41} {source:8} {model.kind}: {model.description}{notes}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    options = get_parser().parse_args(argv)
    if options.list:
        print(describe_all())
    elif options.verify:
        for checkpoint, compared in verify(options.verify, root=options.root).items():
            print(f"{checkpoint}: {'intact' if compared else 'no SHA-256 to compare with'}")
    else:
        print(fetch(options.name, root=options.root))


if __name__ == "__main__":
    sys.exit(run_command(main))
