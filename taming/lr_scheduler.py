"""Schedules over training steps."""

import logging
import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from taming.config import instantiate_from_config

logger = logging.getLogger(__name__)


class LambdaWarmUpCosineScheduler:
    """Linear warm-up from lr_start to lr_max, then a half cosine down to lr_min at max_decay_steps (constant after).

    A function of the step: the factor of a LambdaLR (lr_max 1.0), or the temperature of a Gumbel quantizer.
    """

    def __init__(
        self,
        warm_up_steps: int,
        lr_min: float,
        lr_max: float,
        lr_start: float,
        max_decay_steps: int,
        verbosity_interval: int = 0,
    ) -> None:
        self.lr_warm_up_steps = warm_up_steps
        self.lr_min = lr_min
        self.lr_max = lr_max
        self.lr_start = lr_start
        self.lr_max_decay_steps = max_decay_steps
        self.verbosity_interval = verbosity_interval
        self.last_lr = 0.0

    def schedule(self, n: int) -> float:
        """The value at step n >= 0."""
        if self.verbosity_interval > 0 and n % self.verbosity_interval == 0:
            logger.info("step %d: schedule at %s", n, self.last_lr)
        warm_up, span = self.lr_warm_up_steps, self.lr_max_decay_steps - self.lr_warm_up_steps
        if n < warm_up:
            self.last_lr = self.lr_start + n * (self.lr_max - self.lr_start) / warm_up
        else:
            t = min((n - warm_up) / span, 1.0) if span else 1.0
            self.last_lr = self.lr_min + 0.5 * (self.lr_max - self.lr_min) * (1.0 + math.cos(math.pi * t))
        return self.last_lr

    def __call__(self, n: int) -> float:
        return self.schedule(n)


def lambda_lr(optimizer: Optimizer, scheduler_config) -> LambdaLR:
    """The learning rate multiplied, per optimizer step, by the schedule that the target config describes."""
    return LambdaLR(optimizer, instantiate_from_config(scheduler_config))
