"""Models too large for each device to hold whole: `--strategy fsdp` (Zhao et al. 2023, fully sharded data parallelism).

Each process keeps a part of every weight, of its gradient and of the optimizer's state, and borrows a block's weights
while it computes that block. Checkpoints are those of one process, whatever the number of processes.
"""

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import ModelParallelStrategy, ParallelStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from taming.config import ConfigError
from taming.training.legacy_trainer import FIND_UNUSED


class ShardedStrategy(ModelParallelStrategy):
    """PyTorch's FSDP2 over all processes; the model shards itself in `configure_model`."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights whole, on the CPU of the first process; all processes must ask for them."""
        return self._whole(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return self._whole(ParallelStrategy.optimizer_state(self, optimizer))

    def _whole(self, state: Any) -> Any:
        """`state` with its tensors whole; empty ones stand for sharded ones on other processes than the first."""
        if isinstance(state, Mapping):
            return {key: self._whole(value) for key, value in state.items()}
        if not _is_sharded_tensor(state):
            return state
        whole = state.full_tensor()
        return whole.cpu() if self.is_global_zero else whole.new_empty(0)

    def load_checkpoint(self, checkpoint_path: str | os.PathLike, weights_only: bool | None = None) -> dict[str, Any]:
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        own = self.lightning_module.state_dict()
        weights = checkpoint["state_dict"].items()
        self.lightning_module.load_state_dict(
            {key: _like(value, own.get(key)) for key, value in weights}, strict=strict
        )

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            state = {
                number: {key: _like(value, parameter) for key, value in saved["state"].get(number, {}).items()}
                for number, parameter in zip(numbers, parameters, strict=True)
            }
            optimizer.load_state_dict({**saved, "state": state})


def _like(value: Any, sharded: Any) -> Any:
    """This process's part of the whole tensor `value`, if `sharded` is a sharded tensor of its shape."""
    if not isinstance(value, Tensor) or not _is_sharded_tensor(sharded) or value.shape != sharded.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh = sharded.device_mesh
    return distribute_tensor(value.to(mesh.device_type), mesh, sharded.placements, src_data_rank=None)


def _is_sharded_tensor(value: Any) -> bool:
    return hasattr(value, "full_tensor")  # the class itself is missing in builds of PyTorch without distribution


def is_sharded(trainer: pl.Trainer) -> bool:
    """Whether no process has a whole model, so that all must take part in what computes with it or saves it."""
    return isinstance(trainer.strategy, ShardedStrategy)


def strategy_for(name: Any, model: pl.LightningModule) -> Any:
    """What a Trainer gets as its strategy of that name.

    Plain ddp expects every parameter in every backward pass, which a model that steps several optimizers itself cannot
    give it. Raises ConfigError for a model that cannot be sharded.
    """
    if name == "ddp" and not model.automatic_optimization:
        return FIND_UNUSED
    if name != "fsdp":
        return name
    if not is_overridden("configure_model", model):
        raise ConfigError(
            f"lightning.trainer.strategy = fsdp: only transformers can be sharded, not {type(model).__name__}; use ddp"
        )
    return ShardedStrategy()
