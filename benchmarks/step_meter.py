"""Where the time of training goes under a Trainer: waiting for data, logging, kinds of operations."""

import time
from collections.abc import Callable
from functools import wraps

import pytorch_lightning as pl
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "convolutions": ("conv",),
    "attention": ("attention", "softmax"),
    "normalisation": ("norm",),
    "optimizers": ("adam",),
    "matrix products": ("mm",),
    "copies": ("copy", "clone", "cat", "fill", "zero"),
}
"""Kind -> parts of the names of its operations; the first kind that fits has it, all else is `other`."""


def kind_of(operation: str) -> str:
    name = operation.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other operations")


class StepMeter(pl.Callback):
    """Measures `steps` training steps after `warm_up`: first by the clock, then as many again under the profiler.

    seconds is what a step takes; wait and logging are the parts of it in which the loader, and `log` of the module, are
    waited for. profiled is what one takes under the profiler, operations are the parts of that by kind: on CUDA in the
    device's time, else in the CPU's.
    """

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up = warm_up
        self.steps = steps
        self.seconds = self.wait = self.logging = self.profiled = 0.0
        self.operations: dict[str, float] = {}
        self._batch = 0
        self._begin = self._batch_end = self._logged = 0.0
        self._profiler: profile | None = None

    @property
    def total(self) -> int:
        """How many steps the Trainer has to make."""
        return self.warm_up + 2 * self.steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log = self._timed(pl_module.log)  # which log_dict calls

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        if self._is_timed():
            self.wait += (time.perf_counter() - self._batch_end) / self.steps

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_) -> None:
        self._batch += 1
        if self._batch == self.warm_up:
            self._begin, self._logged = _now(pl_module.device), 0.0
        elif self._batch == self.warm_up + self.steps:
            self.seconds = (_now(pl_module.device) - self._begin) / self.steps
            self.logging = self._logged / self.steps
            self._start_profiler(pl_module.device)
            self._begin = _now(pl_module.device)
        elif self._batch == self.total:
            self.profiled = (_now(pl_module.device) - self._begin) / self.steps
            self._read_profiler(pl_module.device)
        self._batch_end = time.perf_counter()

    def _is_timed(self) -> bool:
        return self.warm_up <= self._batch < self.warm_up + self.steps

    def _timed(self, function: Callable) -> Callable:
        @wraps(function)
        def timed(*args, **kwargs):
            begin = time.perf_counter()
            function(*args, **kwargs)
            self._logged += time.perf_counter() - begin

        return timed

    def _start_profiler(self, device: torch.device) -> None:
        on_cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
        self._profiler = profile(activities=[ProfilerActivity.CPU, *on_cuda])
        self._profiler.start()

    def _read_profiler(self, device: torch.device) -> None:
        self._profiler.stop()
        for event in self._profiler.key_averages():
            if event.device_type == DeviceType.CPU:  # with the time of the kernels that it has launched
                of_device = device.type == "cuda"
                spent = event.self_device_time_total if of_device else event.self_cpu_time_total
                kind = kind_of(event.key)
                self.operations[kind] = self.operations.get(kind, 0.0) + spent / 1e6 / self.steps


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
