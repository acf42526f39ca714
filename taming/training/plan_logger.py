"""Reads the plan of a run off its Trainer, once everything is set up, and logs it before the first batch."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint, Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from taming.config import ConfigError, nearest
from taming.config_errors import typo_limit
from taming.models.manual_optimization import accumulation_at
from taming.modules.losses.auto_start import NEVER
from taming.training.last_checkpoint import LastCheckpoint
from taming.training.learning_rate import LearningRateRule
from taming.training.model_size import Memory, Part, count, in_bytes, in_millions, memory_of, parameters_of, parts_of
from taming.training.plan_table import Length, TrainingReport
from taming.weight_average import WeightAverage

logger = logging.getLogger(__name__)


class PlanLogger(Callback):
    """Logs the plan of a run when training starts, and looks at what the run's callbacks monitor before that.

    `report` is the plan, from then on. `watched` are the callbacks of the run, those of the Trainer if None.

    Args:
        logdir: the run folder.
        base_learning_rate, batch_size, scale_lr: what the learning rate was made from, see LearningRateRule; a
            batch size that was searched is the data module's.
    """

    def __init__(self, logdir: str, base_learning_rate: float, batch_size: int, scale_lr: bool = True) -> None:
        self.logdir = Path(logdir)
        self.base_learning_rate = base_learning_rate
        self.batch_size = batch_size
        self.scale_lr = scale_lr
        self.watched: Sequence[Callback] | None = None
        self.report: TrainingReport | None = None
        self._parts: tuple[Part, ...] = ()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._parts = tuple(parts_of(pl_module))  # before a strategy divides the weights

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises ConfigError if a callback monitors what is not logged, but nearly: it would fail an epoch later."""
        for callback in self._callbacks(trainer):
            monitor = getattr(callback, "monitor", None)
            logged = trainer.callback_metrics
            if not isinstance(monitor, str) or monitor in logged:
                continue
            if near := nearest(monitor, logged, limit=typo_limit(monitor)):
                name = type(callback).__name__
                raise ConfigError(f"{name} monitors {monitor}, which validation does not log; did you mean {near}?")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.report = self._read(trainer, pl_module)
        logger.info("Training plan\n%s", self.report)
        if self.report.disc_starts_too_late:
            start, end = self.report.disc_start, self.report.length.steps
            logger.warning("the discriminator starts at step %d and the run ends at %d: it is not used", start, end)

    def _callbacks(self, trainer: pl.Trainer) -> Sequence[Callback]:
        return trainer.callbacks if self.watched is None else self.watched

    def _read(self, trainer: pl.Trainer, model: pl.LightningModule) -> TrainingReport:
        callbacks, setting = self._callbacks(trainer), _accumulation(trainer, model)
        batch_size = getattr(trainer.datamodule, "batch_size", self.batch_size)
        accumulate = accumulation_at(0, setting)
        factors = {"batch_size": batch_size, "devices": trainer.num_devices, "accumulate": accumulate}
        rule = LearningRateRule(self.base_learning_rate, **factors, scaled=self.scale_lr)
        memory = memory_of(
            model,
            trainer.optimizers,
            average=sum(callback.size for callback in callbacks if isinstance(callback, WeightAverage)),
            in_turn=not model.automatic_optimization and accumulate == 1,
        )
        return TrainingReport(
            logdir=self.logdir,
            devices=_devices(trainer),
            examples=_examples(trainer),
            batch=(batch_size, trainer.world_size, accumulate),
            learning_rate=str(rule)
            if rule.rate == model.learning_rate
            else f"{model.learning_rate:.2e}, set otherwise",
            schedules=tuple(dict.fromkeys(_name(config.scheduler) for config in trainer.lr_scheduler_configs)),
            optimizers=tuple(map(_optimizer, trainer.optimizers)),
            length=_run_length(trainer, setting),
            limits=tuple(_limits(callbacks)),
            disc_start=_disc_start(model),
            parts=self._parts,
            memory=memory,
            checkpoints=_checkpoints(callbacks, memory),
        )


def _accumulation(trainer: pl.Trainer, model: pl.LightningModule) -> int | Mapping[int, int]:
    """Batches per optimizer step, or their schedule over epochs, whoever applies it."""
    if not model.automatic_optimization:
        return getattr(model, "accumulate_grad_batches", 1)
    schedules = [c.scheduling for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]
    return schedules[0] if schedules else trainer.accumulate_grad_batches


def _run_length(trainer: pl.Trainer, accumulation: int | Mapping[int, int]) -> Length:
    batches, ends = trainer.num_training_batches, []  # infinite for data of unknown length
    if trainer.max_steps > 0:
        ends.append(trainer.max_steps)

    def steps_of(epoch: int) -> int:
        return math.ceil(batches / accumulation_at(epoch, accumulation))

    if math.isfinite(batches) and (trainer.max_epochs or 0) > 0:
        in_all = sum(map(steps_of, range(trainer.max_epochs)))
        ends.append(in_all)
    return Length(
        start=trainer.global_step,
        steps=min(ends, default=None),
        per_epoch=steps_of(0) if math.isfinite(batches) else None,
    )


def _limits(callbacks: Sequence[Callback]) -> Iterator[str]:
    """What else may end the run."""
    for callback in callbacks:
        if isinstance(callback, Timer) and callback.time_remaining() is not None:
            yield f"at most {round(callback.time_remaining())} s more"
        if isinstance(callback, EarlyStopping):
            yield f"or until {callback.monitor} has not improved {callback.patience} times"


def _devices(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    nodes = f"{trainer.num_nodes} nodes with " if trainer.num_nodes > 1 else ""
    several = f", {type(trainer.strategy).__name__}" if trainer.world_size > 1 else ""
    return f"{nodes}{trainer.num_devices} x {kind}{several}, precision {trainer.precision}"


def _examples(trainer: pl.Trainer) -> dict[str, int | None]:
    """Split -> how many there are; other data modules than this project's may not tell."""
    datasets = getattr(trainer.datamodule, "datasets", None)
    return {split: _length(data) for split, data in datasets.items()} if isinstance(datasets, Mapping) else {}


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # a stream
        return None


def _name(scheduler: LRScheduler) -> str:
    """A schedule's class, or of a function of the step its own."""
    return type(scheduler.lr_lambdas[0] if isinstance(scheduler, LambdaLR) else scheduler).__name__


def _optimizer(optimizer: Optimizer) -> str:
    rates = {group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}
    at = " and ".join(f"{rate:.2e}" for rate in sorted(rates))
    return f"{type(optimizer).__name__} for {in_millions(count(parameters_of(optimizer)))} at {at}"


def _disc_start(model: pl.LightningModule) -> int | str | None:
    """The step from which on a model with two optimizers uses its discriminator."""
    loss = getattr(model, "loss", None)
    if model.automatic_optimization or not hasattr(loss, "discriminator"):
        return None
    if hasattr(loss, "auto_start"):
        return "auto" if loss.auto_start.step == NEVER else loss.auto_start.step
    return getattr(loss, "discriminator_iter_start", None)


def _checkpoints(callbacks: Sequence[Callback], memory: Memory) -> str:
    kept = []
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.save_top_k:
            number = "all" if callback.save_top_k < 0 else f"the best {callback.save_top_k} by {callback.monitor}"
            kept.append(number if callback.monitor or callback.save_top_k < 0 else "the newest epoch")
        if isinstance(callback, LastCheckpoint):
            kept.append("last.ckpt if interrupted" if callback.only_when_interrupted else "last.ckpt")
    size = memory.weights + memory.average + (memory.optimizer_state or 0)
    return f"{' and '.join(kept)}, about {in_bytes(size)} each" if kept else "none"
