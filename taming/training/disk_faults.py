"""What training writes on its way may fail, on a full disk or an absent file server, without ending the training."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from taming.checkpoint import SafeCheckpointIO
from taming.config_errors import one_line

logger = logging.getLogger(__name__)


class PatientCheckpointIO(SafeCheckpointIO):
    """Goes on when a checkpoint cannot be written, with a warning; the file that was there stays as it is.

    Each save tries anew. failure: why the newest one was not written, or None; older checkpoints that it should have
    replaced are kept until one is. Errors end here since the other ranks of a run wait for this one.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self._outdated: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any | None = None
    ) -> None:
        try:
            super().save_checkpoint(checkpoint, path, storage_options)
        except OSError as error:
            self.failure = f"{path} could not be written: {error.strerror or one_line(error)}"
            logger.warning("%s; training goes on, and the next save tries again", self.failure)
        else:
            self.failure = None
            for outdated in self._outdated - {Path(path)}:
                super().remove_checkpoint(outdated)
            self._outdated.clear()

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        if self.failure is None:
            super().remove_checkpoint(path)
        else:
            self._outdated.add(Path(path))


def save_failure(trainer: Trainer) -> str | None:
    """Why the newest checkpoint could not be written by this process, or None."""
    return getattr(trainer.strategy.checkpoint_io, "failure", None)


def check_saved(trainer: Trainer) -> None:
    """Raise OSError, in all processes of a run that has ended, if its newest checkpoint could not be written."""
    if failure := trainer.strategy.broadcast(save_failure(trainer)):
        raise OSError(f"{failure}; the end of the training is lost: make room and continue with -r")


class _Patient(Logger):
    """Logs what the disk takes; the first time that it does not there is a warning."""

    _warned = False

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        self._try(super().log_metrics, *args, **kwargs)

    def save(self) -> None:
        self._try(super().save)

    def finalize(self, status: str) -> None:
        self._try(super().finalize, status)

    def _try(self, write: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            write(*args, **kwargs)
        except (OSError, ValueError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__  # Lightning says that no value is logged
            if not isinstance(cause, OSError):
                raise
            if not self._warned:
                logger.warning("%s cannot write (%s); training goes on without it", self.name, one_line(cause))
            self._warned = True


class PatientTensorBoardLogger(_Patient, TensorBoardLogger):
    """TensorBoard's curves end where the disk is full."""


class PatientCSVLogger(_Patient, CSVLogger):
    """The table goes on when there is room again."""


PATIENT_LOGGERS = {TensorBoardLogger: PatientTensorBoardLogger, CSVLogger: PatientCSVLogger}


def make_patient(experiment: Logger) -> Logger:
    """Let a logger that writes to the disk get over it when it cannot; others stay as they are.

    The object changes its class, so that configs may go on naming Lightning's own.
    """
    experiment.__class__ = PATIENT_LOGGERS.get(type(experiment), type(experiment))
    return experiment
