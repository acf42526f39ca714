"""Which run and which configs a command samples with: the flags that commands with data sets share."""

import argparse
from collections.abc import Sequence

from omegaconf import DictConfig

from taming.config import load_config
from taming.runs import Run


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add -r, -b, -c, --ignore_base_data and --outdir."""
    add = parser.add_argument
    add("-r", "--resume", default="", metavar="RUN", help="run folder, or checkpoint file in one")
    add("-b", "--base", nargs="*", default=[], metavar="YAML", help="configs, after those of the run")
    text = "use this config only; without a file, the last of -b"
    add("-c", "--config", nargs="?", const=True, default="", metavar="YAML", help=text)
    add("--ignore_base_data", action="store_true", help="drop `data` from all files; give data=... instead")
    add("--outdir", required=True, help="folder that gets the samples")


def load_configs(options: argparse.Namespace, run: Run | None, overrides: Sequence[str]) -> DictConfig:
    """The config that these options mean. Raises ValueError if there is none, ConfigError for a mistake in it."""
    files = [*(run.configs if run else []), *options.base]
    if options.config:
        files = files[-1:] if options.config is True else [options.config]
    if not files:
        raise ValueError("no config: name a run with -r, or configs with -b")
    return load_config(files, overrides, ignore_base_data=options.ignore_base_data)
