"""What a training run is before anything is built: its folder, what it continues, and its merged configuration."""

import argparse
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only

from taming.config import merge_sources, read_sources, validate_config
from taming.runs import Run, resolve_run
from taming.training.last_checkpoint import newest_intact
from taming.training.legacy_trainer import RUN_REQUESTS
from taming.training.trainer_options import check_devices, translate, with_options

logger = logging.getLogger(__name__)

RUN_NAME_VARIABLE = "TAMING_RUN_NAME"
DEBUG_RUNS = "debug_runs"
"""Folder beside new run folders that debug runs are moved to."""
STAMP = "%Y-%m-%dT%H-%M-%S"


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
        now=time_stamp(after=(path.name for path in saved)) if resumed else now,
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
def new_run_name(logs: Path, name_part: str, *, reserve: bool) -> Iterator[tuple[str, str]]:
    """(time stamp, name) of a new run in `logs`; processes that this one starts for other devices get the same.

    With `reserve` the folder of that name is made at once, so that no other run can take it; if it stays empty it goes.
    Raises OSError if it cannot be made.
    """
    inherited = os.environ.get(RUN_NAME_VARIABLE)
    reserve = reserve and not inherited and rank_zero_only.rank == 0
    now, name = inherited.split("|") if inherited else _unused_name(logs, name_part, reserve=reserve)
    os.environ[RUN_NAME_VARIABLE] = f"{now}|{name}"
    try:
        yield now, name
    finally:
        if not inherited:
            del os.environ[RUN_NAME_VARIABLE]
        if reserve:
            with suppress(OSError):  # it is not empty, or was moved
                Path(logs, name).rmdir()


def _unused_name(logs: Path, name_part: str, *, reserve: bool) -> tuple[str, str]:
    while True:
        now = time_stamp(after=(path.name for path in [*logs.glob("*"), *(logs / DEBUG_RUNS).glob("*")]))
        name = f"{now}{name_part}"
        if not reserve or _made(logs, name):
            return now, name


def _made(logs: Path, name: str) -> bool:
    """Make the folder `name` in `logs`; False if another run was faster."""
    try:
        logs.mkdir(parents=True, exist_ok=True)
        Path(logs, name).mkdir()
    except OSError as error:
        if isinstance(error, FileExistsError) and logs.is_dir():
            return False
        reason = f"no run folder can be made here ({error.strerror}); choose another place with -l/--logdir"
        raise OSError(f"{logs}: {reason}") from error
    return True


def time_stamp(after: Iterable[str]) -> str:
    """The local time; a second after the latest of the names that begin with a time stamp, if they are ahead of it.

    So runs, and configs in a run, sort in the order in which they began, also when the clock was put back between.
    """
    now = datetime.now().replace(microsecond=0)
    latest = max(filter(None, map(_stamp_of, after)), default=None)
    if latest is None or latest < now:
        return now.strftime(STAMP)
    if latest - now > timedelta(minutes=1):
        logger.warning("the clock is behind the latest run, of %s: time stamps count on from there", latest)
    return (latest + timedelta(seconds=1)).strftime(STAMP)


def _stamp_of(name: str) -> datetime | None:
    found = re.match(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", name)
    try:
        return datetime.strptime(found[0], STAMP) if found else None
    except ValueError:  # no such day or hour
        return None


@contextmanager
def keeping_tidy(plan: RunPlan) -> Iterator[None]:
    """Remove the folder of a new run that did not get as far as its configs; put that of a debug run aside."""
    try:
        yield
    finally:
        if rank_zero_only.rank == 0 and plan.logdir.exists():
            if not plan.resumed and not plan.cfgdir.exists():
                shutil.rmtree(plan.logdir)
            elif plan.final_logdir != plan.logdir:
                plan.final_logdir.parent.mkdir(exist_ok=True)
                plan.logdir.replace(plan.final_logdir)
