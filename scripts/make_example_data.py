"""The example data below data/: rendered scenes in the formats of the real data sets, for demos without downloads.

python scripts/make_example_data.py                    # once; --force makes it again
python scripts/make_example_data.py --only drin coco   # some sets
python scripts/make_example_data.py --check            # is what is there right?
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import run_command  # noqa: E402
from taming.data.example_data.make import SETS, check, make  # noqa: E402


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make or check the example data, under 3 MB.")
    add = parser.add_argument
    add("--outdir", type=Path, default=Path("data"), help="where it goes (default: %(default)s)")
    add("--seed", type=int, default=0, help="of all random numbers (default: %(default)s)")
    add("--only", nargs="+", choices=SETS, default=[], metavar="SET", help=f"some of {', '.join(SETS)}")
    add("--force", action="store_true", help="replace files that are there")
    add("--check", action="store_true", help="write nothing; list what is wrong with what is there, status 1 if any")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = get_parser().parse_args(argv)
    if not options.check:
        make(options.outdir, seed=options.seed, only=options.only, force=options.force)
        print(f"the example data are in {options.outdir}")
        return 0
    failures = check(options.outdir, seed=options.seed, only=options.only)
    print("\n".join(failures) if failures else f"{options.outdir}: all is well")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
