"""What breaks in the runs of the drills: models, data and callbacks that really provoke a fault at a chosen place."""

import ctypes
import multiprocessing
import os
import signal
import subprocess

import pytorch_lightning as pl
import torch
from tiny_runs import ModelWithTest, Noise, TinyModel, last_checkpoint, run_folders
from torch.utils.data import get_worker_info

from taming.models.finite import check_finite


def interrupt():
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


class InterruptedModel(ModelWithTest):
    """Ctrl-C is pressed at `where`, and whenever a checkpoint is made if `while_saving`."""

    def __init__(self, where, while_saving=False):
        super().__init__()
        self.where, self.while_saving = where, while_saving
        self._press("__init__")

    def _press(self, where):
        if where == self.where:
            interrupt()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.global_step == 1:
            self._press("training_step")
        return loss

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self._press("sanity check" if self.trainer.sanity_checking else "validation_step")

    def test_step(self, batch, batch_idx):
        self._press("test_step")

    def on_save_checkpoint(self, checkpoint):
        if self.while_saving:
            interrupt()


class InterruptedData(Noise):
    """Ctrl-C is pressed while the data are prepared."""

    def __init__(self):
        super().__init__()
        interrupt()


class GreedyModel(TinyModel):
    """In its third batch memory runs out: that of a GPU, as torch tells it, or really that of this machine."""

    def __init__(self, device, ddconfig=None, transformer_config=None):
        super().__init__()
        self.on = device

    def training_step(self, batch, batch_idx):
        if self.global_step == 2 and self.on == "cpu":
            torch.empty(2**60, dtype=torch.uint8)
        if self.global_step == 2 and self.on == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.10 GiB free.")
        return super().training_step(batch, batch_idx)


class DivergingModel(TinyModel):
    """Its loss is infinite in the third batch."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx) / (0 if self.global_step == 2 else 1)
        check_finite(self, {"train/rec_loss": loss}, step=self.global_step, inputs=batch)
        return loss


class DyingWorkers(Noise):
    """A process that loads data dies at its 40th image: by a signal, or with an exit code."""

    def __init__(self, by):
        super().__init__(size=64)
        self.by = by
        self.loaded = 0

    def __getitem__(self, index):
        self.loaded += 1
        if self.loaded == 40 and get_worker_info() is not None:
            if self.by == "exit":
                os._exit(3)
            os.kill(os.getpid(), getattr(signal, self.by))
        return super().__getitem__(index)


class BrokenPipe(Noise):
    """Waits for what a process that has ended was to send."""

    def __getitem__(self, index):
        here, there = multiprocessing.Pipe()
        there.close()
        here.recv()


class LargeNoise(Noise):
    """Images of 3 MiB."""

    def __getitem__(self, index):
        return {"image": torch.zeros(512, 512, 3)}


class FullDisk(pl.Callback):
    """The disk of the current folder is full from one batch of the run on until another one.

    Attributes of the class: `seen`, the step of last.ckpt when the disk has room again.
    """

    seen = None

    def __init__(self, first, last=None):
        self.first, self.last = first, last

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.first:
            fill_disk()
        if trainer.global_step == self.last:
            FullDisk.seen = last_checkpoint()["global_step"]
            os.unlink("filler")


def fill_disk():
    """Write until there is no room for a byte more."""
    file = os.open("filler", os.O_WRONLY | os.O_CREAT)
    try:
        for size in (4096, 1):
            while os.write(file, bytes(size)) == size:
                pass
    except OSError:
        pass
    finally:
        os.close(file)


def target(name, **params):
    """A target config of this module, as one argument's value."""
    return f"{{target: {__name__}.{name}, params: {{{', '.join(f'{k}: {v}' for k, v in params.items())}}}}}"


def leftovers():
    """Files of run folders that are not complete, and locks."""
    found = [path for folder in run_folders() for path in folder.rglob("*")]
    return [path for path in found if path.name.endswith(".part") or path.name == "training.lock"]


def limit_shared_memory(size):
    """Give this process, and those that it starts, a /dev/shm of `size`; False without the right to do so."""
    new_mounts = 0x20000
    if ctypes.CDLL(None).unshare(new_mounts):
        return False
    for arguments in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"]):
        if subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode:
            return False
    return True
