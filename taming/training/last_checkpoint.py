"""`last.ckpt`: the newest state of a run, kept apart from the checkpoints that a metric selects."""

import logging
import os
import shutil
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint

from taming.checkpoint import CheckpointError, check_intact, load_checkpoint
from taming.models.finite import NonFiniteError
from taming.training.disk_faults import save_failure
from taming.training.sharding import is_sharded

logger = logging.getLogger(__name__)


class Asked(IntEnum):
    """What a signal asked of training, the more urgent the larger."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class Terminated(SystemExit):
    """Training has ended since SIGTERM asked for it; the exit status is that of a program that the signal ended."""

    def __init__(self) -> None:
        super().__init__(128 + 15)


class LastCheckpoint(Checkpoint):
    """Keeps `<dirpath>/last.ckpt` up to date; always that one file, whoever wrote the one before.

    It is due after each validation and each save of another checkpoint callback, each `every_n_steps` optimizer steps
    (none of these if `only_when_interrupted`), and when `request()` or `stop()` asked for it. It is written when the
    next batch is about to begin, at the end of an accumulation of gradients: a run resumes exactly from there. It is
    also written at the end of fit if steps were made since, and when an exception or Ctrl-C ends training, even within
    a batch, which a resumed run then repeats. The `keep - 1` files before it stay as `last.1.ckpt`, `last.2.ckpt`, ...

    Lightning's own `save_last` would write `last-v1.ckpt` beside a file from elsewhere, and writes nothing after an
    epoch whose metric is not among the best.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike,
        *,
        only_when_interrupted: bool = False,
        every_n_steps: int | None = None,
        keep: int = 2,
    ) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.coming = Path(dirpath) / "last.next.ckpt"
        self.only_when_interrupted = only_when_interrupted
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._training = False
        self._save_asked = False
        self._stop_asked = False
        self._due = False
        self._saved_step = 0
        self._hosts: dist.ProcessGroup | None = None

    def request(self) -> None:
        """Ask for a save before the next batch; safe to call from a signal handler."""
        self._save_asked = True

    def stop(self) -> None:
        """Ask for a save before the next batch and the end of training; safe to call from a signal handler."""
        self._stop_asked = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._hosts = dist.new_group(backend="gloo") if trainer.world_size > 1 else None
        self._training = not trainer.fast_dev_run
        self._saved_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._due = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._due = self._due or not trainer.enable_validation

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Here and not at the end of a batch: validation and the end of an epoch are over, nothing is left to do.
        if batch_idx % accumulation(trainer, pl_module) == 0:
            self._save_if(trainer, self._is_due(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save_if(trainer, trainer.global_step > self._saved_step and not self.only_when_interrupted)
        self._training = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not self._training or isinstance(exception, Terminated):
            return
        self._training = False
        if isinstance(exception, NonFiniteError) and not exception.weights_are_finite:
            logger.warning("%s stays at step %d: the present weights are not finite", self.path, self._saved_step)
            return
        try:
            self._save_alone(trainer)
        except Exception:  # whatever this save met, the exception that ended training is the one to show
            logger.exception("%s could not be written", self.path)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        step, every, last = trainer.global_step, self.every_n_steps, self._saved_step
        if self.only_when_interrupted or step <= last:
            return False
        return self._due or bool(every and step // every > last // every)

    def _save_if(self, trainer: pl.Trainer, due: bool) -> None:
        """Save with all ranks if it is due or asked of one of them, and stop if that was asked."""
        asked = self._agree()
        self._save_asked = False  # before the save, during which it may be asked again
        if self._training and (due or asked):
            trainer.save_checkpoint(self.coming, weights_only=False)
            self._take_over(trainer)
            self._saved_step = trainer.global_step
            if asked and save_failure(trainer) is None:
                logger.info("saved %s at step %d", self.path, trainer.global_step)
        self._due = False
        if asked == Asked.STOP:
            logger.info("training ends here since SIGTERM asked for it; -r %s continues", self.path.parent.parent)
            raise Terminated

    def _agree(self) -> int:
        """What was asked of any rank: a signal need not reach all of them, nor before the same batch.

        The processors tell each other; by way of the devices, every step would wait for what these have left to do.
        """
        asked = Asked.STOP if self._stop_asked else Asked.SAVE if self._save_asked else Asked.NOTHING
        if self._hosts is None:
            return asked
        of_any = torch.tensor(int(asked))
        dist.all_reduce(of_any, dist.ReduceOp.MAX, group=self._hosts)
        return int(of_any)

    def _take_over(self, trainer: pl.Trainer) -> None:
        """Let the new file, if it is there, have the name of the last one, which stays as the one before if intact."""
        if trainer.is_global_zero and save_failure(trainer) is None:
            older = [self.path.with_suffix(f".{age}.ckpt") for age in range(1, self.keep)]
            shift([self.coming, self.path, *older] if is_intact(self.path) else [self.coming, self.path])

    def _save_alone(self, trainer: pl.Trainer) -> None:
        """Save on rank 0 without waiting for other ranks, which may not get here: `Trainer.save_checkpoint` would."""
        if is_sharded(trainer):
            logger.warning("%s stays at step %d: no process has the whole model", self.path, self._saved_step)
            return
        if trainer.is_global_zero:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint(checkpoint, self.coming)
            self._take_over(trainer)
            if save_failure(trainer) is None:
                logger.info("saved %s at step %d", self.path, trainer.global_step)


def accumulation(trainer: pl.Trainer, pl_module: pl.LightningModule) -> int:
    """Batches per optimizer step."""
    factor = getattr(pl_module, "accumulation_factor", None)
    return trainer.accumulate_grad_batches if pl_module.automatic_optimization or factor is None else factor()


def shift(paths: list[Path]) -> None:
    """Give each file or folder the name after its own; the last one goes."""
    for newer, older in reversed(list(pairwise(paths))):
        if newer.exists():
            if older.is_dir():
                shutil.rmtree(older)
            newer.replace(older)


def is_intact(path: Path) -> bool:
    """Whether there is a checkpoint that passes `check_intact`, or a folder, as sharded strategies write."""
    if path.is_dir():
        return True
    try:
        check_intact(path)
    except (CheckpointError, FileNotFoundError):
        return False
    return True


def newest_intact(path: Path) -> Path:
    """`path`, or in place of a damaged file the newest other checkpoint in its folder that can be read.

    Raises CheckpointError if there is none.
    """
    if is_intact(path):
        return path
    others = sorted(set(path.parent.glob("*.ckpt")) - {path}, key=lambda file: file.stat().st_mtime, reverse=True)
    for other in others:
        if is_intact(other):
            step = load_checkpoint(other, "meta")["global_step"]
            logger.warning("%s is damaged: going on from %s, which is of step %d", path, other, step)
            return other
    raise CheckpointError(f"{path}: damaged, and no other checkpoint in {path.parent} can be read; start a new run")
