"""What sampling commands share: the flags that say which run, weights and configs, and what is told of a job."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig

from taming.config import load_config
from taming.runs import Run
from taming.sampling.samples import at_precision


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add -r, -b, -c and --ignore_base_data, which `load_configs` reads."""
    add = parser.add_argument
    add("-r", "--resume", default="", metavar="RUN", help="run folder, or checkpoint file in one")
    add("-b", "--base", nargs="*", default=[], metavar="YAML", help="configs, after those of the run")
    text = "use this config only; without a file, the last of -b"
    add("-c", "--config", nargs="?", const=True, default="", metavar="YAML", help=text)
    add("--ignore_base_data", action="store_true", help="drop `data` from all files; give data=... instead")


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    """Add --trained_weights, for `build_model` and `run_name`."""
    text = "of a run that averaged its weights take those of its last step, not the average"
    parser.add_argument("--trained_weights", action="store_true", help=text)


def run_name(run: Run, options: argparse.Namespace) -> str:
    """The run as a manifest names it; a folder of samples has those of one kind of weights."""
    name = run.logdir.resolve().name
    return f"{name} (trained weights)" if options.trained_weights else name


def load_configs(options: argparse.Namespace, run: Run | None, overrides: Sequence[str]) -> DictConfig:
    """The config that these options mean. Raises ValueError if there is none, ConfigError for a mistake in it."""
    files = [*(run.configs if run else []), *options.base]
    if options.config:
        files = files[-1:] if options.config is True else [options.config]
    if not files:
        raise ValueError("no config: name a run with -r, or configs with -b")
    return load_config(files, overrides, ignore_base_data=options.ignore_base_data)


def carry_out(job: Any, run: Callable[..., object], options: argparse.Namespace, *, n_images: int) -> None:
    """`run` a job of `n_images` images at the precision of the options, and say what it makes, where, and how fast.

    Of the processes of torchrun one says it; those that --shard starts are on machines of their own.
    """
    shows = job.options.shard.index == 0 or options.shard is not None
    start = time.monotonic()
    if shows:
        print(f"{job.describe()}\nsamples go to {job.folder}", flush=True)
    with at_precision(job.model, options.precision):
        run(job, progress=shows)
    if shows:
        print(f"{n_images} images in {time.monotonic() - start:.1f} s")
