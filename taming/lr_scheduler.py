"""Schedules over training steps."""

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from omegaconf import OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from taming.config import (
    ConfigError,
    check_keywords,
    check_target,
    config_error,
    get_obj_from_str,
    instantiate_from_config,
)
from taming.config_errors import key_path, one_line

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


def build_schedule(optimizer: Optimizer, config: Mapping[str, Any], *, where: str = "scheduler_config") -> LRScheduler:
    """The schedule of the learning rate, stepped once per optimizer step, that a target config describes.

    The target is a function of the step whose value multiplies the rate, such as LambdaWarmUpCosineScheduler, or a
    class of torch.optim.lr_scheduler, which is given the optimizer. Those that combine others take target configs of
    them in `schedulers`; `lr_lambda` is the target config of a function. Raises ConfigError for anything else, and for
    ReduceLROnPlateau, which follows a metric, not the step.
    """
    kind = _kind(config, where)
    if not (inspect.isclass(kind) and issubclass(kind, LRScheduler)):
        return LambdaLR(optimizer, _function(config, where))
    params = config.get("params") or {}
    build = partial(kind, optimizer=optimizer)
    build.__name__ = kind.__name__
    check_keywords(build, params, key_path(config, "params", where=where))
    try:
        return build(**_built(optimizer, params, where=f"{where}.params"))
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        problem = f"{kind.__name__} does not take these: {one_line(error)}"
        raise config_error(config, "params", problem, where=where) from error


def _kind(config: Mapping[str, Any], where: str) -> Any:
    """What the target names. Raises ConfigError for a class that is no schedule."""
    try:
        kind = get_obj_from_str(str(config.get("target")))
    except ConfigError:
        check_target(config, where=where)  # raises it with the key
        raise
    if kind is ReduceLROnPlateau:
        problem = "it follows a metric, and schedules follow the step; stop early instead, or take another schedule"
        raise config_error(config, "target", problem, where=where)
    if inspect.isclass(kind) and not issubclass(kind, LRScheduler) and "__call__" not in dir(kind):
        problem = "neither a function of the step nor a class of torch.optim.lr_scheduler"
        raise config_error(config, "target", problem, where=where)
    return kind


def _function(config: Mapping[str, Any], where: str) -> Callable[[int], float]:
    function = instantiate_from_config(config, where=where)
    if not callable(function):
        raise config_error(config, "target", "what it makes is no function of the step", where=where)
    return function


def _built(optimizer: Optimizer, params: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Parameters of a schedule as plain values, the schedules and functions among them built."""
    plain = OmegaConf.to_container(params, resolve=True) if OmegaConf.is_config(params) else dict(params)
    if "schedulers" in plain:
        parts = enumerate(params["schedulers"])
        plain["schedulers"] = [build_schedule(optimizer, part, where=f"{where}.schedulers[{i}]") for i, part in parts]
    if "lr_lambda" in plain:
        plain["lr_lambda"] = _function(params["lr_lambda"], f"{where}.lr_lambda")
    return plain
