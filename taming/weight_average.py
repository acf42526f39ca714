"""An exponential moving average of the weights: it validates, draws and samples better than the weights of any step.

(Polyak & Juditsky 1992; for generative models Yazici et al. 2019.) Switched on by a config:

    lightning:
      callbacks:
        weight_average:
          target: taming.weight_average.WeightAverage
          params: {decay: 0.999}
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["WeightAverage", "averaged_weights", "choose_weights"]

logger = logging.getLogger(__name__)

TRAINED = "current_model_state"
"""Key of a checkpoint for the weights as the optimizers left them; `state_dict` holds the average then. The two keys
are those of Lightning's own WeightAveraging, so either callback goes on from the other's checkpoints."""
UPDATES = "averaging_state"

DIVIDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
"""Strategies under which no process has whole weights."""


class WeightAverage(Callback):
    """Keeps the running average of the weights, one update per optimizer round, whatever the number of optimizers.

    Validation, images and the test after training use the average; after fit the model has it. Checkpoints hold it as
    `state_dict`, which is what every reader of checkpoints takes, and beside it what a resumed run needs to go on
    exactly. (Checkpoints of weights only, `save_weights_only`, are made without callbacks: they hold trained weights.)

    All floating-point weights and buffers are averaged, those of a codebook that follows its vectors too, so that it
    fits the averaged encoder; others, and what is not averaged, are the model's own. Stages that are frozen are left
    out, and `exclude`, parts that nobody needs after training: the discriminator lives in `loss`.

    Lightning's WeightAveraging would copy those as well (the published VQGAN has 17 M weights in its loss, a
    transformer a whole first stage), loses the trained weights at the end of fit, and mixes the two up when an
    exception comes in a validation.

    Args:
        decay: the share of the old average in the new, below 1. In the first rounds less, (1 + n) / (10 + n) after n
            updates, so that the random start is forgotten in short runs too.
        exclude: names of the model's children.
    """

    def __init__(self, decay: float = 0.999, exclude: Sequence[str] = ("loss",)) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: expected a share from 0 to below 1, such as 0.999")
        self.decay = decay
        self.exclude = tuple(exclude)
        self._average: dict[str, Tensor] = {}  # in 32 bits or more: the steps of 16 bits are larger than the updates
        self._trained: dict[str, Tensor] = {}  # the model's weights while the average takes their place, else empty
        self._updates = 0
        self._step = 0

    @property
    def size(self) -> int:
        """Bytes of the average; in validation the trained weights take as many besides."""
        return sum(average.nbytes for average in self._average.values())

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises ValueError if each process will only have a part of the weights."""
        if isinstance(trainer.strategy, DIVIDING):
            raise ValueError(
                f"weight_average: {type(trainer.strategy).__name__} divides the weights among processes, an average "
                "of them is not supported; use --strategy ddp, or set lightning.callbacks.weight_average to null"
            )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Before training goes on, tell the average in `state_dict`, which the model has got, from its weights."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if TRAINED not in checkpoint:
            if trainer.ckpt_path:  # none while Lightning searches a learning rate
                logger.info("%s has no average of weights: it begins with the weights", trainer.ckpt_path)
            return
        weights = self._weights(pl_module)
        self._average = {name: checkpoint["state_dict"][name] for name in weights}
        self._updates = int(checkpoint[UPDATES]["n_averaged"])
        _copy(checkpoint[TRAINED], weights)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The model is on its device now. An average has the memory format of its weight: updates are faster so.
        weights = self._weights(pl_module)
        start = {**weights, **self._average}
        self._average = {
            name: torch.empty_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            for name, weight in weights.items()
        }
        _copy(start, self._average)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._step:  # else gradients are being accumulated
            self._step = trainer.global_step
            self._update(pl_module)

    @torch.no_grad()
    def _update(self, module: nn.Module) -> None:
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        weights = self._weights(module)
        averages = list(self._average.values())
        latest = [weights[name].to(average.dtype) for name, average in self._average.items()]
        get_ema_multi_avg_fn(decay)(averages, latest, self._updates)
        self._updates += 1

    def _weights(self, module: nn.Module) -> dict[str, Tensor]:
        """Name in the state dict -> the module's own tensor, of all that is averaged."""
        others = tuple(f"{name}." for name, part in module.named_children() if name in self.exclude or _is_frozen(part))
        return {
            name: value.detach()
            for name, value in module.state_dict(keep_vars=True).items()
            if not name.startswith(others) and not name.endswith("_extra_state") and value.is_floating_point()
        }

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._put_in_place(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._put_back(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the model, and forget it here: another fit begins with it."""
        self._put_in_place(pl_module)
        self._average, self._trained, self._updates = {}, {}, 0

    @contextmanager
    def in_place(self, module: nn.Module) -> Iterator[None]:
        """A block in which the module has the average for its weights, if there is one yet."""
        nested = bool(self._trained)
        self._put_in_place(module)
        try:
            yield
        finally:
            if not nested:
                self._put_back(module)

    def _put_in_place(self, module: nn.Module) -> None:
        if self._average and not self._trained:
            weights = self._weights(module)
            self._trained = {name: weight.clone() for name, weight in weights.items()}
            _copy(self._average, weights)

    def _put_back(self, module: nn.Module) -> None:
        if self._trained:
            _copy(self._trained, self._weights(module))
            self._trained = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What is not averaged is written once: the two mappings share its memory."""
        if self._average:
            checkpoint[TRAINED] = {**checkpoint["state_dict"], **self._trained}
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._average}
            checkpoint[UPDATES] = {"n_averaged": torch.tensor(self._updates)}


def _is_frozen(part: nn.Module) -> bool:
    """Whether training leaves it alone; a codebook may learn without gradients, but not in eval mode."""
    return not part.training and not any(parameter.requires_grad for parameter in part.parameters())


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in target.items():
        value.copy_(source[name])


def averaged_weights(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """A block in which the trainer's module has its averaged weights, if an average is kept."""
    average = next((callback for callback in trainer.callbacks if isinstance(callback, WeightAverage)), None)
    return average.in_place(trainer.lightning_module) if average else nullcontext()


def choose_weights(checkpoint: Mapping[str, Any], source: object, *, trained: bool = False) -> Mapping[str, Any]:
    """The average that a checkpoint of a run with WeightAverage holds, or the `trained` weights of its last step.

    Which of the two is logged, with the checkpoint's name, `source`; of another checkpoint it is all the weights.
    """
    if TRAINED not in checkpoint:
        return checkpoint["state_dict"]
    average, last = "the average of the weights", "the weights of the last step"
    logger.info("%s: using %s, not %s", source, *((last, average) if trained else (average, last)))
    return checkpoint[TRAINED if trained else "state_dict"]
