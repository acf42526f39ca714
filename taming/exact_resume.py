"""What makes a resumed run the continuation of the one before, bit for bit.

Nothing random in training depends on what happened before it: data sets by `EpochLoader`, all else by `ExactResume`.
So a checkpoint need not hold the random states of all ranks, and validation and pictures cannot disturb training.
"""

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler

from taming.data.seeded import seed_from

logger = logging.getLogger(__name__)

Tracker = dict[str, int]


class ExactResume(Callback):
    """Seeds each batch by its number, and corrects what Lightning keeps of its loops in checkpoints.

    Lightning resumes differently from each place where a checkpoint may be saved: it forgets an optimizer step of the
    loggers, counts a batch twice, shortens an epoch to one batch. Here all checkpoints say that the next thing to do is
    a certain batch of a certain epoch. Must come before the other callbacks.
    """

    def __init__(self) -> None:
        self.seed = torch.initial_seed()
        self._logged_steps: int | None = None  # those of the checkpoint, until the first batch

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._trainer = trainer

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let schedules of accumulation know the epoch, which a run that resumes in one does not begin."""
        for callback in trainer.callbacks:
            if isinstance(callback, GradientAccumulationScheduler):
                callback.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        done = loop.batch_progress.total.completed
        if self._logged_steps is not None:  # by now Lightning has added what it believes to be missing
            loop._batches_that_stepped, self._logged_steps = self._logged_steps, None
            loop.batch_progress.total.ready = done + 1
        self._seed(trainer, f"{done}")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        self._seed(trainer, f"{done}/{dataloader_idx}/{batch_idx}")

    def _seed(self, trainer: pl.Trainer, place: str) -> None:
        seed_from(f"{self.seed}/{trainer.global_rank}/{place}")
        torch.manual_seed(torch.initial_seed())  # other devices too

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "logged_steps": logged_steps(self._trainer)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        if state_dict["seed"] != self.seed:
            logger.info("seed %d of the checkpoint is kept; a new run would have %d", state_dict["seed"], self.seed)
        self.seed, self._logged_steps = state_dict["seed"], state_dict["logged_steps"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.total.ready:
            settle(checkpoint["loops"]["fit_loop"], *next_batch(trainer))


def logged_steps(trainer: pl.Trainer) -> int:
    """The step that loggers will be told for the next batch."""
    loop = trainer.fit_loop.epoch_loop
    in_batch = loop.batch_progress.current.completed < loop.batch_progress.current.processed  # its end is not over
    in_validation = trainer.validating and not trainer.sanity_checking
    return loop._batches_that_stepped + int((in_batch or in_validation) and not loop._should_accumulate())


def next_batch(trainer: pl.Trainer) -> tuple[int, int]:
    """The epoch and the number in it of the first batch that has not been trained on, both counted from 0."""
    epochs = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress
    begun_but_not_ended = epochs.ready == epochs.started > epochs.processed
    epoch = epochs.processed if begun_but_not_ended else epochs.processed - 1  # the one that `batches` counts
    done = batches.current.processed
    if (batches.is_last_batch and done == batches.current.ready) or done >= trainer.num_training_batches:
        return epoch + 1, 0
    return epoch, done


def settle(fit_loop: dict[str, Any], epoch: int, batches: int) -> None:
    """Make a saved state of Lightning's loop say that the next batch is number `batches` of `epoch`.

    What it says of totals, in which nothing has begun, keeps Lightning from finishing a validation or an epoch.
    """
    progress, total = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_loop.batch_progress"]["total"]
    done = total["processed"]
    progress["current"] = _tracker(batches)
    progress["total"] = _tracker(done) | {"ready": done + 1}
    progress["is_last_batch"] = False
    begun = _tracker(epoch) | {"ready": epoch + 1, "started": epoch + (batches > 0)}
    fit_loop["epoch_progress"] = {"total": begun, "current": dict(begun)}
    for tracker in ("total", "current"):
        finished = fit_loop["epoch_loop.val_loop.batch_progress"][tracker]["completed"]
        fit_loop["epoch_loop.val_loop.batch_progress"][tracker] = _tracker(finished)
    for loader in fit_loop["state_dict"].get("combined_loader", []):
        if loader.keys() == {"epoch", "batches"}:  # else a loader of the user's own
            loader.update(epoch=epoch, batches=batches)


def _tracker(count: int) -> Tracker:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)
