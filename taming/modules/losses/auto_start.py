"""When a discriminator should start: once the reconstruction no longer improves by itself."""

import logging
import sys

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

NEVER = sys.maxsize


class AutoStart(nn.Module):
    """The first step of an adversarial loss, decided by validation.

    It is the step of the `patience`-th validation in a row whose reconstruction loss is not lower than the lowest
    before by the share `tolerance` of it. The decision and what it rests on are part of the state dict.
    """

    def __init__(self, patience: int = 3, tolerance: float = 0.01) -> None:
        super().__init__()
        self.patience = patience
        self.tolerance = tolerance
        self.step = NEVER
        self.best = float("inf")
        self.stale = 0

    def observe(self, rec_loss: float, step: int) -> None:
        """Take note of one validation; later ones do not move a start that is decided."""
        if self.step != NEVER:
            return
        if rec_loss < self.best * (1 - self.tolerance):
            self.best, self.stale = rec_loss, 0
            return
        self.stale += 1
        if self.stale >= self.patience:
            self.step = step
            logger.info("the discriminator starts at step %d: validation reconstruction has settled", step)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.step if self.step != NEVER else -1, self.best, self.stale], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        step, self.best, stale = state.tolist()
        self.step, self.stale = NEVER if step < 0 else int(step), int(stale)
