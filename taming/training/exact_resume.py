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
from taming.training.epoch_means import Sums, add_sums, sums_of

logger = logging.getLogger(__name__)

Tracker = dict[str, int]


class ExactResume(Callback):
    """Seeds each batch by its number, and corrects what Lightning keeps of its loops in checkpoints.

    Lightning resumes differently from each place where a checkpoint may be saved: it forgets an optimizer step of the
    loggers, counts a batch twice, shortens an epoch to one batch. Here all checkpoints say that the next thing to do is
    a certain batch of a certain epoch; it also keeps what loggers need to go on. With several ranks the means of the
    epoch in which a run resumes are the first rank's up to there. Must come before the other callbacks.
    """

    def __init__(self) -> None:
        self.seed = torch.initial_seed()
        self._logged_steps: int | None = None  # until the first batch
        self._validation_batches: dict[int, int] = {}  # until the first validation
        self._sums: Sums = {}  # until each has been logged again

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._trainer = trainer

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epochs = trainer.fit_loop.epoch_progress.current
        epochs.ready = epochs.started + 1  # which Lightning leaves out where a run resumes with a new epoch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        done = loop.batch_progress.total.completed
        if self._logged_steps is not None:  # by now Lightning has added what it believes to be missing
            loop._batches_that_stepped, self._logged_steps = self._logged_steps, None
            loop.batch_progress.total.ready = done + 1
            for callback in trainer.callbacks:
                if isinstance(callback, GradientAccumulationScheduler):  # which waits for an epoch to begin
                    callback.on_train_epoch_start(trainer, pl_module)
        self._go_on_with_sums(trainer)
        self._seed(trainer, f"{done}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._go_on_with_sums(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._go_on_with_sums(trainer)
        self._sums = {}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader.update(self._validation_batches)
        self._validation_batches = {}

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
        self._seed(trainer, f"{done}/{dataloader_idx}/{batch_idx}")

    def _go_on_with_sums(self, trainer: pl.Trainer) -> None:
        if self._sums:
            self._sums = add_sums(trainer.fit_loop.epoch_loop._results, self._sums)

    def _seed(self, trainer: pl.Trainer, place: str) -> None:
        seed_from(f"{self.seed}/{trainer.global_rank}/{place}")
        torch.manual_seed(torch.initial_seed())  # other devices too

    def state_dict(self) -> dict[str, Any]:
        loop = self._trainer.fit_loop.epoch_loop
        seen = dict(loop.val_loop._seen_batches_per_dataloader) | self._validation_batches
        in_epoch = loop.batch_progress.total.ready and next_batch(self._trainer)[1] > 0
        return {
            "seed": self.seed,
            "logged_steps": logged_steps(self._trainer),
            "validation_batches": seen,
            "sums": self._sums | sums_of(loop._results) if in_epoch else {},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["seed"] != self.seed:
            logger.info("seed %d of the checkpoint is kept; a new run would have %d", state_dict["seed"], self.seed)
        self.seed, self._logged_steps = state_dict["seed"], state_dict["logged_steps"]
        self._validation_batches = state_dict["validation_batches"]
        self._sums = state_dict["sums"]

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
    fit_loop["epoch_loop.val_loop.batch_progress"] |= {"total": _tracker(0), "current": _tracker(0)}
    for loader in fit_loop["state_dict"].get("combined_loader", []):
        if loader.keys() == {"epoch", "batches"}:  # else a loader of the user's own
            loader.update(epoch=epoch, batches=batches)


def _tracker(count: int) -> Tracker:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)
