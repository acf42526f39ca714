"""`last.ckpt`: the newest state of a run, kept apart from the checkpoints that a metric selects."""

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from taming.models.finite import NonFiniteError
from taming.sharding import is_sharded

logger = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Keeps `<dirpath>/last.ckpt` up to date; always that one file, whoever wrote the one before.

    Written after each validation and each save of another checkpoint callback (unless `only_when_interrupted`), at the
    end of fit if steps were made since, when an exception or Ctrl-C ends training, and between two batches after
    `request()`. Lightning's own `save_last` would write `last-v1.ckpt` beside a file from elsewhere, and writes nothing
    after an epoch whose metric is not among the best.
    """

    def __init__(self, dirpath: str | os.PathLike, *, only_when_interrupted: bool = False) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.only_when_interrupted = only_when_interrupted
        self._training = False
        self._requested = False
        self._due = False
        self._saved_step = 0

    def request(self) -> None:
        """Ask for a save before the next batch; safe to call from a signal handler."""
        self._requested = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training = not trainer.fast_dev_run
        self._saved_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._due = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Here and not at the end of a batch: only now does the loop's state count the finished batch.
        if is_sharded(trainer):
            if trainer.strategy.reduce_boolean_decision(self._requested, all=False):
                self._save_together(trainer)
        elif self._requested:
            self._save_alone(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._follow(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = True
        if not trainer.is_last_batch:  # else the end of the epoch is next, the better place to resume from
            self._follow(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = self._due or not trainer.enable_validation
        self._follow(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = True
        self._follow(trainer)
        self._training = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not self._training:
            return
        self._training = False
        if isinstance(exception, NonFiniteError) and not exception.weights_are_finite:
            logger.warning("%s stays at step %d: the present weights are not finite", self.path, self._saved_step)
            return
        try:
            self._save_alone(trainer)
        except Exception:  # whatever this save met, the exception that ended training is the one to show
            logger.exception("%s could not be written", self.path)

    def _follow(self, trainer: pl.Trainer) -> None:
        """Save with all ranks if a save is due."""
        stale = self._due and trainer.global_step > self._saved_step
        if stale and self._training and not self.only_when_interrupted:
            self._save_together(trainer)
        self._due = False

    def _save_together(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_step = trainer.global_step
        self._due = self._requested = False

    def _save_alone(self, trainer: pl.Trainer) -> None:
        """Save on rank 0 without waiting for other ranks, which may not get here: `Trainer.save_checkpoint` would.

        What decides the next common save stays as it is, or ranks would disagree and wait for each other for ever.
        """
        if is_sharded(trainer):
            logger.warning("%s stays at step %d: no process has the whole model", self.path, self._saved_step)
            return
        due = self._due
        if trainer.is_global_zero:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint(checkpoint, self.path)
            logger.info("saved %s at step %d", self.path, trainer.global_step)
        self._due, self._requested = due, False
