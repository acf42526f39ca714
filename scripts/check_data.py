"""Read every item of the datasets of a config and list what is wrong with them.

    python scripts/check_data.py -b configs/custom_vqgan.yaml
    python scripts/check_data.py -b configs/custom_vqgan.yaml --split train --workers 8 data.params.train.params.size=64

prints a line for each problem, with its index and file, whatever the dataset's on_error says. The exit status is 0
without problems, 1 with some, and 2 if the config itself cannot be used. Nothing is written but what a dataset keeps.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from taming.cli import run_command, split_dotlist  # noqa: E402
from taming.config import instantiate_from_config, load_config  # noqa: E402
from taming.config_errors import one_line  # noqa: E402
from taming.data.check import find_problems  # noqa: E402
from taming.data.datamodule import SPLITS  # noqa: E402

FOUND = 1


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="List what is wrong with the datasets of a config.",
        epilog="Config overrides such as data.params.train.params.size=256 may be added.",
    )
    add = parser.add_argument
    add("-b", "--base", nargs="+", required=True, metavar="YAML", help="configs, later ones override earlier ones")
    add("--split", nargs="+", choices=SPLITS, default=[], metavar="SPLIT", help=f"{', '.join(SPLITS)} (default: all)")
    add("--workers", type=int, default=0, help="processes that read (default: %(default)s, read in this one)")
    add("--limit", type=int, help="only so many items of each split (default: all)")
    return parser


def chosen_splits(data: DictConfig, wanted: Sequence[str]) -> dict[str, DictConfig]:
    """Target configs of the datasets by split. Raises ValueError if there is none, or one is missing."""
    params = data.get("params") or {}
    configured = {split: params[split] for split in SPLITS if params.get(split) is not None}
    for split in wanted:
        if split not in configured:
            raise ValueError(f"--split {split}: the config has no data.params.{split}")
    if not configured:
        raise ValueError("the config has no dataset: data.params has none of " + ", ".join(SPLITS))
    return {split: configured[split] for split in wanted or configured}


def check(split: str, config: DictConfig, *, batched: bool, workers: int, limit: int | None) -> int:
    """Print the problems of a split and a summary; the number of problems."""
    try:
        dataset = instantiate_from_config(config)
    except (ValueError, OSError) as error:  # the other splits may be well
        print(f"{split}: {one_line(error)}")
        return 1
    count = 0
    for problem in find_problems(dataset, batched=batched, workers=workers, limit=limit):
        place = "" if problem.index is None else f"[{problem.index}]"
        print(f"{split}{place}: {problem.message}", flush=True)
        count += 1
    print(f"{split}: {count or 'no'} problem{'' if count == 1 else 's'}")
    return count


def main(argv: Sequence[str] | None = None) -> int:
    options, overrides = split_dotlist(get_parser(), argv)
    if options.workers < 0 or (options.limit is not None and options.limit < 1):
        raise ValueError("--workers must not be negative, and --limit must be positive")
    config = load_config(options.base, overrides)
    if not isinstance(config.get("data"), DictConfig):
        raise ValueError(f"{', '.join(options.base)}: there is no section data")
    splits = chosen_splits(config.data, options.split)
    batched = (config.data.params.get("batch_size") or 2) > 1
    choices = {"batched": batched, "workers": options.workers, "limit": options.limit}
    counts = [check(split, splits[split], **choices) for split in splits]
    return FOUND if any(counts) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
