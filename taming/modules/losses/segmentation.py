"""Losses of autoencoders for label maps: binary cross entropy of every class channel."""

import torch.nn.functional as F
from torch import Tensor, nn


class BCELoss(nn.Module):
    """Binary cross entropy of logits (b, n_labels, h, w) against targets in [0, 1], meaned; the log is empty."""

    def forward(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return F.binary_cross_entropy_with_logits(prediction, target), {}


class BCELossWithQuant(nn.Module):
    """Binary cross entropy plus `codebook_weight` times the quantizer's loss, in whose shape the loss comes."""

    def __init__(self, codebook_weight: float = 1.0) -> None:
        super().__init__()
        self.codebook_weight = codebook_weight

    def forward(
        self, qloss: Tensor, target: Tensor, prediction: Tensor, split: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and what to log of it. Mind the order: target before prediction, other than in BCELoss."""
        bce_loss = F.binary_cross_entropy_with_logits(prediction, target)
        loss = bce_loss + self.codebook_weight * qloss
        parts = {"total_loss": loss, "bce_loss": bce_loss, "quant_loss": qloss}
        return loss, {f"{split}/{name}": value.detach().mean() for name, value in parts.items()}
