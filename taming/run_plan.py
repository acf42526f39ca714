"""What a training run is before anything is built: its folder, what it continues, and its merged configuration."""

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from taming.config import merge_sources, read_sources, validate_config
from taming.last_checkpoint import newest_intact
from taming.legacy_trainer import RUN_REQUESTS
from taming.runs import Run, resolve_run
from taming.trainer_options import check_devices, translate, with_options

RUN_NAME_VARIABLE = "TAMING_RUN_NAME"
DEBUG_RUNS = "debug_runs"
"""Folder beside new run folders that debug runs are moved to."""


@dataclass(frozen=True)
class RunPlan:
    """Where a run writes, what it starts from, and its configuration.

    config has its Trainer options in Lightning 2.6 keys. requests holds those of RUN_REQUESTS that were made. scale_lr:
    whether the learning rate grows with the examples behind a step.
    """

    now: str
    logdir: Path
    resumed: bool
    checkpoint: Path | None
    config: DictConfig
    requests: dict[str, Any]
    debug: bool
    scale_lr: bool

    @property
    def ckptdir(self) -> Path:
        return self.logdir / "checkpoints"

    @property
    def cfgdir(self) -> Path:
        return self.logdir / "configs"

    @property
    def final_logdir(self) -> Path:
        """Where the run folder is in the end: new debug runs are put aside."""
        return self.logdir.parent / DEBUG_RUNS / self.logdir.name if self.debug and not self.resumed else self.logdir


def make_plan(options: argparse.Namespace, overrides: Sequence[str], now: str, name: str) -> RunPlan:
    """Read and check the configuration.

    Raises ConfigError if it is wrong or asks for a device that is not there, FileNotFoundError for a missing run or
    checkpoint, CheckpointError for a run without any that can be read.
    """
    resumed = resolve_run(options.resume) if options.resume else None
    if resumed and Path(options.resume).is_dir():
        resumed = replace(resumed, checkpoint=newest_intact(resumed.checkpoint))
    logdir = resumed.logdir if resumed else Path(options.logdir, name)
    saved = sorted((logdir / "configs").glob("*.yaml")) if resumed else []
    sources = with_options(read_sources([*saved, *options.base], overrides), options)
    translated, origins = translate(list(sources))
    config = merge_sources(translated)
    check_devices(config.lightning.trainer, origins)
    validate_config(config)
    requests = {name: config.lightning.trainer.pop(name, None) for name in RUN_REQUESTS}
    return RunPlan(
        now=now,
        logdir=logdir,
        resumed=resumed is not None,
        checkpoint=_checkpoint(requests.pop("resume_from_checkpoint"), resumed),
        config=config,
        requests=requests,
        debug=options.debug,
        scale_lr=options.scale_lr,
    )


def _checkpoint(requested: str | None, resumed: Run | None) -> Path | None:
    if resumed:
        return resumed.checkpoint
    if requested is None:
        return None
    if not Path(requested).is_file():
        raise FileNotFoundError(f"resume_from_checkpoint {requested}: no such file")
    return Path(requested)


def name_part(options: argparse.Namespace) -> str:
    """What follows the time stamp in the name of a new run: `_<name, or stem of the first config><postfix>`."""
    name = options.name or (Path(options.base[0]).stem if options.base else "")
    return (f"_{name}" if name else "") + options.postfix


@contextmanager
def new_run_name(logs: Path, name_part: str) -> Iterator[tuple[str, str]]:
    """(time stamp, name) of a new run in `logs`; processes that this one starts for other devices get the same."""
    inherited = os.environ.get(RUN_NAME_VARIABLE)
    now, name = inherited.split("|") if inherited else _unused_name(logs, name_part)
    os.environ[RUN_NAME_VARIABLE] = f"{now}|{name}"
    try:
        yield now, name
    finally:
        if not inherited:
            del os.environ[RUN_NAME_VARIABLE]


def _unused_name(logs: Path, name_part: str) -> tuple[str, str]:
    while True:
        now = time.strftime("%Y-%m-%dT%H-%M-%S")
        name = f"{now}{name_part}"
        if not any((folder / name).exists() for folder in (logs, logs / DEBUG_RUNS)):
            return now, name
        time.sleep(0.1)  # two runs that start in one second would share a folder


@contextmanager
def keeping_tidy(plan: RunPlan) -> Iterator[None]:
    """Remove the folder of a new run that did not get as far as its configs; put that of a debug run aside."""
    is_new = not plan.logdir.exists()
    try:
        yield
    finally:
        if rank_zero_only.rank == 0 and plan.logdir.exists():
            if is_new and not plan.cfgdir.exists():
                shutil.rmtree(plan.logdir)
            elif plan.final_logdir != plan.logdir:
                plan.final_logdir.parent.mkdir(exist_ok=True)
                plan.logdir.replace(plan.final_logdir)
