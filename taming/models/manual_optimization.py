"""Two optimizers per batch under Lightning 2, counted as one step: accumulation, clipping and schedules included."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch import Tensor
from torch.optim import Optimizer


def accumulation_at(epoch: int, setting: int | Mapping[int, int] | None) -> int:
    """Batches per optimizer step in an epoch, of a number or a schedule {epoch from which on: number}."""
    if not isinstance(setting, Mapping):
        return setting or 1
    begun = [start for start in setting if start <= epoch]
    return setting[max(begun)] if begun else 1


class TwoOptimizers:
    """For LightningModules that step two optimizers themselves; it stands before LightningModule among their bases.

    Lightning counts every optimizer's step in `global_step`; published configs mean one per batch, so only the first
    optimizer's counts here. The three attributes are set from outside, where Lightning refuses the trainer's own.
    """

    automatic_optimization = False
    accumulate_grad_batches: int | Mapping[int, int] = 1  # or epoch -> factor, valid from that epoch on
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str = "norm"

    def optimizer_round(self, batch_idx: int) -> Callable[[int], AbstractContextManager[Callable[[Tensor], None]]]:
        """For one batch: a function of the optimizer's number that gives a context around its pass.

        The context switches the gradients of the other optimizer's parameters off, yields the function to call with the
        loss, and makes the optimizer's step at the end of an accumulation.
        """
        for optimizer in self.optimizers()[1:]:
            self._do_not_count(optimizer)
        return partial(self._optimizer_pass, self._is_boundary(batch_idx))

    @contextmanager
    def _optimizer_pass(self, boundary: bool, index: int) -> Iterator[Callable[[Tensor], None]]:
        optimizer = self.optimizers()[index]
        self.toggle_optimizer(optimizer)
        yield lambda loss: self.manual_backward(loss / self.accumulation_factor())
        if boundary:
            optimizer.step()
            optimizer.zero_grad()
        self.untoggle_optimizer(optimizer)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients: here mixed precision has taken its loss scale out of them."""
        if not self.automatic_optimization:
            self.clip_gradients(optimizer, self.gradient_clip_val, self.gradient_clip_algorithm)

    def step_schedulers(self, batch_idx: int) -> None:
        """One step of every learning-rate schedule, where the optimizers have made theirs."""
        schedulers = self.lr_schedulers() or []
        if self._is_boundary(batch_idx):
            for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
                scheduler.step()

    def accumulation_factor(self) -> int:
        """Batches per optimizer step in the present epoch."""
        return accumulation_at(self.current_epoch, self.accumulate_grad_batches)

    def _is_boundary(self, batch_idx: int) -> bool:
        return (batch_idx + 1) % self.accumulation_factor() == 0 or self.trainer.is_last_batch

    def _do_not_count(self, optimizer) -> None:
        """Keep only the profiler's part of the hooks by which Lightning counts steps; it resets them for each batch."""
        profiler = self.trainer.profiler
        optimizer._on_before_step = lambda: profiler.start("optimizer_step")
        optimizer._on_after_step = lambda: profiler.stop("optimizer_step")
