"""A model, data and a config that make a training run take a fraction of a second, and ways to look at runs."""

import os
import signal
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch.utils.data import Dataset

from taming.models.manual_optimization import TwoOptimizers
from taming.training import train


class Noise(Dataset):
    """`size` images (8, 8, 3) in [-1, 1]; those of a file are never found."""

    def __init__(self, size=8, path=None):
        if path is not None:
            raise FileNotFoundError(f"{path}: no such file")
        self.images = torch.rand(size, 8, 8, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}


class TinyModel(pl.LightningModule):
    """A 1x1 convolution that learns the identity."""

    def __init__(self, monitor=None):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 3, 1)
        if monitor is not None:
            self.monitor = monitor

    def loss(self, batch):
        x = batch["image"].permute(0, 3, 1, 2)
        return (self.net(x) - x).square().mean()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val/rec_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def log_images(self, batch, split, pl_module):
        x = batch["image"].permute(0, 3, 1, 2)
        return {"inputs": x, "reconstructions": self.net(x)}


class WorseningModel(TinyModel):
    """Its metric is best in epoch 0."""

    def validation_step(self, batch, batch_idx):
        self.log("val/rec_loss", float(self.current_epoch))


class ModelWithTest(TinyModel):
    """Remembers the weight that it was tested with."""

    def test_step(self, batch, batch_idx):
        self.tested_weight = self.net.weight.detach().clone()


class SignalledModel(TinyModel):
    """Is sent SIGUSR1 in its second batch."""

    def training_step(self, batch, batch_idx):
        if self.global_step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().training_step(batch, batch_idx)


class TwoOptimizerModel(TwoOptimizers, TinyModel):
    """Two convolutions, each with an optimizer that the module steps itself."""

    def __init__(self):
        super().__init__()
        self.other = torch.nn.Conv2d(3, 3, 1)

    def training_step(self, batch, batch_idx):
        optimizer_pass = self.optimizer_round(batch_idx)
        x = batch["image"].permute(0, 3, 1, 2)
        for index, net in enumerate((self.net, self.other)):
            with optimizer_pass(index) as backward:
                backward((net(x) - x).square().mean())

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters(), lr=self.learning_rate) for net in (self.net, self.other)], []


class At(pl.Callback):
    """Does `action` when training is about to process a batch of the run, counted from 0."""

    seen = None

    def __init__(self, batch, action):
        self.batch = batch
        self.action = action

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.batch:
            getattr(self, self.action)()

    def fail(self):
        raise RuntimeError("broken on purpose")

    def fail_on_value(self):
        raise ValueError("bad value on purpose")

    def interrupt(self):
        raise KeyboardInterrupt

    def look(self):
        At.seen = last_checkpoint()["global_step"]


def write_config(folder):
    """Write tiny.yaml: 4 batches of 2 per epoch, 2 batches in validation; its name."""
    noise = f"{__name__}.Noise"
    OmegaConf.save(
        {
            "model": {"base_learning_rate": 0.01, "target": f"{__name__}.TinyModel", "params": {}},
            "data": {
                "target": "main.DataModuleFromConfig",
                "params": {
                    "batch_size": 2,
                    "num_workers": 0,
                    "train": {"target": noise},
                    "validation": {"target": noise, "params": {"size": 4}},
                },
            },
            "lightning": {"trainer": {"enable_progress_bar": False, "enable_model_summary": False}},
        },
        folder / "tiny.yaml",
    )
    return "tiny.yaml"


def fit(config, *arguments):
    """Train on the CPU."""
    return train(["-b", config, "-t", "--accelerator", "cpu", *arguments])


def at(batch, action):
    """Arguments that add the callback At."""
    return f"lightning.callbacks.at={{target: {__name__}.At, params: {{batch: {batch}, action: {action}}}}}"


def model(name, **params):
    """Arguments that choose another model of this module."""
    return [f"model.target={__name__}.{name}", *(f"model.params.{key}={value}" for key, value in params.items())]


def run_folders():
    """The folders in logs, oldest first."""
    return sorted(Path("logs").glob("*")) if Path("logs").exists() else []


def last_checkpoint(logdir=None):
    """The content of last.ckpt in `logdir`, or in the only run folder."""
    (logdir,) = [logdir] if logdir else run_folders()
    return torch.load(logdir / "checkpoints" / "last.ckpt", weights_only=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())
