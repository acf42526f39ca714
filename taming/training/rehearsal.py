"""A dry run: one optimizer step and one validation batch of a run as it is configured, without leaving a trace."""

import logging
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, GradientAccumulationScheduler
from pytorch_lightning.loggers.logger import DummyLogger

from taming.training.model_size import in_bytes
from taming.training.plan_logger import PlanLogger
from taming.weight_average import WeightAverage

logger = logging.getLogger(__name__)

TAKING_PART = (PlanLogger, WeightAverage, GradientAccumulationScheduler)
"""Callbacks that a step depends on, or that tell of it; others may write, draw or end the run."""


class Rehearsal(Callback):
    """Ends a fit after its first optimizer step, and logs the time and the memory that it took."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._start = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._first_step = trainer.global_step
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._start = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._first_step:
            trainer.should_stop = True
        if self.seconds is None and trainer.should_stop:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self.seconds = time.monotonic() - self._start

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.seconds is None:
            logger.info("dry run: the run is at its end, there is nothing left to train")
            return
        peak = peak_memory(trainer.strategy.root_device)
        of = "the tensors on the GPU" if trainer.strategy.root_device.type == "cuda" else "the process"
        memory = f", {of} took at most {in_bytes(peak)}" if peak else ""
        logger.info("dry run: the first step took %.2f s%s; nothing is written", self.seconds, memory)


def peak_memory(device: torch.device) -> int | None:
    """Bytes taken at most by tensors on a GPU, for a model on the CPU by the whole process, if the system tells."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def prepare_rehearsal(trainer: pl.Trainer) -> None:
    """Make the next fit of a Trainer a dry run: nothing is written, and it ends after one step and one validation."""
    watched = trainer.callbacks
    trainer.callbacks = [callback for callback in watched if isinstance(callback, TAKING_PART)]
    for callback in trainer.callbacks:
        if isinstance(callback, PlanLogger):
            callback.watched = watched
    trainer.callbacks.append(Rehearsal())
    trainer.logger = DummyLogger()
    trainer.limit_val_batches = 1 if trainer.limit_val_batches else 0  # 1.0 would be all of them
    trainer.num_sanity_val_steps = min(trainer.num_sanity_val_steps, 1)
    trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
