"""Callbacks that a training run has by default, and those that old Trainer options turn into.

Configs name them `main.SetupCallback`, `main.ImageLogger`, `main.LearningRateMonitor`.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, LearningRateMonitor, TQDMProgressBar
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim import Optimizer

from taming.config_errors import one_line
from taming.files import atomic_path
from taming.images import image_grid, save_png
from taming.training.loggers import log_images
from taming.training.sharding import is_sharded
from taming.weight_average import averaged_weights

__all__ = ["FitProgressBar", "GradientNorm", "ImageLogger", "LearningRateMonitor", "SetupCallback"]

logger = logging.getLogger(__name__)


class SetupCallback(Callback):
    """Makes the run folder and writes the run's configuration into it, on rank 0, when fit or test starts.

    Args:
        resume: the checkpoint or folder that the run continues, or an empty string.
        now: time stamp that begins the names of the two files.
        logdir, ckptdir, cfgdir: the run folder, its folder of checkpoints and its folder of configurations.
        config: everything but the `lightning` section, for `<now>-project.yaml`.
        lightning_config: the `lightning` section, for `<now>-lightning.yaml`.
    """

    def __init__(
        self,
        resume: str | os.PathLike,
        now: str,
        logdir: str | os.PathLike,
        ckptdir: str | os.PathLike,
        cfgdir: str | os.PathLike,
        config: DictConfig,
        lightning_config: DictConfig,
    ) -> None:
        self.resume = resume
        self.now = now
        self.logdir = Path(logdir)
        self.ckptdir = Path(ckptdir)
        self.cfgdir = Path(cfgdir)
        self.config = config
        self.lightning_config = lightning_config
        self._written = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so when a resumed optimizer keeps a learning rate, or what a schedule multiplies, not just computed."""
        computed = getattr(pl_module, "learning_rate", None)
        if not trainer.ckpt_path or computed is None:
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for rate in {group.get("initial_lr", group["lr"]) for group in groups}:
            if rate != computed:
                logger.info("learning rate %.2e of the checkpoint is kept; a new run would have %.2e", rate, computed)

    def _write(self, trainer: pl.Trainer) -> None:
        if self._written or not trainer.is_global_zero:
            return
        self._written = True
        for folder in (self.logdir, self.ckptdir, self.cfgdir):
            folder.mkdir(parents=True, exist_ok=True)
        self._save("project", "Project config", self.config)
        self._save("lightning", "Lightning config", OmegaConf.create({"lightning": self.lightning_config}))

    def _save(self, kind: str, heading: str, config: DictConfig) -> None:
        text = OmegaConf.to_yaml(config)
        logger.info("%s\n%s", heading, text)
        with atomic_path(self.cfgdir / f"{self.now}-{kind}.yaml") as path:
            path.write_text(text, encoding="utf-8")


class ImageLogger(Callback):
    """Writes what `pl_module.log_images` shows to the run folder and to the loggers, on rank 0.

    In training at batch s (counted from 0 over the whole run, resumed or not) when s is a multiple of
    `batch_frequency`, or with `increase_log_steps` a power of two up to it: 0, 1, 2, 4, ..., 512, 750, 1500 for 750. In
    validation at each multiple of `batch_frequency` of a validation run. Files are grids,
    `images/<train|val>/<key>_gs-<optimizer rounds before the latest training batch>_e-<epoch>_b-<batch index>.png`.
    Training goes on without those that cannot be written; there is a warning when that begins.

    Args:
        batch_frequency: batches between two grids; None or 0 for no images.
        max_images: images per grid at most; 0 for no images.
        clamp: clip images to [-1, 1].
        increase_log_steps: more often at the beginning.
    """

    def __init__(
        self, batch_frequency: int | None, max_images: int, clamp: bool = True, increase_log_steps: bool = True
    ) -> None:
        self.batch_frequency = batch_frequency or 0
        self.max_images = max_images
        self.clamp = clamp
        self.increase_log_steps = increase_log_steps
        self._rounds = 0  # optimizer rounds before the latest training batch
        self._failed = False

    def is_due(self, batches: int) -> bool:
        """Whether training logs images at this batch of the run, counted from 0."""
        early = self.increase_log_steps and 0 < batches <= self.batch_frequency and batches & (batches - 1) == 0
        return early or batches % self.batch_frequency == 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rounds = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # `completed` excludes this batch until the hook returns, and is exact after a run that broke off in a batch.
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.completed
        if self._can_log(trainer, pl_module) and self.is_due(batches):
            self._log(trainer, pl_module, batch, batch_idx, "train")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._can_log(trainer, pl_module) and batch_idx % self.batch_frequency == 0:
            self._log(trainer, pl_module, batch, batch_idx, "val")

    def _can_log(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        wanted = self.batch_frequency > 0 and self.max_images > 0
        taking_part = trainer.is_global_zero or is_sharded(trainer)
        return wanted and taking_part and callable(getattr(pl_module, "log_images", None))

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, split: str) -> None:
        with averaged_weights(trainer):
            images = self._images(pl_module, batch, split)
        if not trainer.is_global_zero:
            return
        name = f"gs-{self._rounds:06}_e-{trainer.current_epoch:06}_b-{batch_idx:06}"
        try:
            self._write(trainer, images, split, name)
        except OSError as error:
            if not self._failed:
                logger.warning("images could not be written (%s); training goes on without", one_line(error))
            self._failed = True
        else:
            self._failed = False

    def _write(self, trainer: pl.Trainer, images: dict[str, Tensor], split: str, name: str) -> None:
        folder = run_folder(trainer) / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in images.items():
            save_png(folder / f"{key}_{name}.png", image_grid(value))
        log_images(trainer.loggers, {f"{split}/{key}": value for key, value in images.items()}, trainer.global_step)

    def _images(self, pl_module: pl.LightningModule, batch: Any, split: str) -> dict[str, Tensor]:
        """The module's images (n, c, h, w) on the CPU; neither its mode nor the random state of training changes."""
        with evaluating(pl_module), torch.no_grad(), isolate_rng(include_cuda=pl_module.device.type == "cuda"):
            images = pl_module.log_images(batch, split=split, pl_module=pl_module)
        images = {key: value[: self.max_images].detach().cpu().float() for key, value in images.items()}
        return {key: value.clamp(-1, 1) for key, value in images.items()} if self.clamp else images


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode within the block; then each submodule has its own mode back, so frozen ones stay in eval mode."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


def run_folder(trainer: pl.Trainer) -> Path:
    """Where a run's files belong: the run folder of `SetupCallback`, else the logger's, else the Trainer's."""
    for callback in trainer.callbacks:
        if isinstance(callback, SetupCallback):
            return callback.logdir
    save_dir = trainer.logger.save_dir if trainer.logger else None
    return Path(save_dir or trainer.default_root_dir)


class GradientNorm(Callback):
    """Logs the norm of each optimizer's gradients before its step, as `grad_norm/optimizer_<i>`.

    Args:
        norm_type: the p of the p-norm; inf for the largest magnitude.
    """

    def __init__(self, norm_type: float = 2.0) -> None:
        self.norm_type = norm_type

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        index = next(i for i, candidate in enumerate(trainer.optimizers) if candidate is optimizer)
        norm = torch.nn.utils.get_total_norm(gradients, self.norm_type)
        pl_module.log(f"grad_norm/optimizer_{index}", norm.full_tensor() if is_sharded(trainer) else norm)


class FitProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the time left until the end of fit, not only of the epoch.

    Args:
        refresh_rate: batches between two updates; 0 for no bar.
        min_seconds: between two updates in training, but for the last of an epoch: its metrics are copied from the
            device, which has nothing to do until the next batch comes.
    """

    def __init__(self, refresh_rate: int = 1, min_seconds: float = 0.5) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.min_seconds = min_seconds
        self._updated = -math.inf
        self._start_time = 0.0
        self._start_fraction = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start_time = time.monotonic()
        self._start_fraction = fraction_done(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if trainer.is_last_batch or now - self._updated >= self.min_seconds:
            self._updated = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The metrics that the module shows in the bar, and the time left if the end of fit is known."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        done = fraction_done(trainer)
        if done > self._start_fraction:
            elapsed = time.monotonic() - self._start_time
            left = elapsed * (1 - done) / (done - self._start_fraction)
            metrics["fit_ends_in"] = str(timedelta(seconds=round(left)))
        return metrics


def fraction_done(trainer: pl.Trainer) -> float:
    """How much of the fit is done, from 0 to 1, by steps or epochs, whichever ends it first; 0 if it has no end."""
    fractions = [0.0]
    if trainer.max_steps > 0:
        fractions.append(trainer.global_step / trainer.max_steps)
    if trainer.max_epochs and trainer.max_epochs > 0:
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        fractions.append((trainer.current_epoch + batches / trainer.num_training_batches) / trainer.max_epochs)
    return min(1.0, max(fractions))
