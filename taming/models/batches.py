"""From what the data loader gives to what the networks read."""

import torch
from torch import Tensor


def image_from_batch(x: Tensor) -> Tensor:
    """(b, h, w, c) or (b, h, w) -> (b, c, h, w), contiguous; the data type stays."""
    if x.ndim == 3:
        x = x[..., None]
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.contiguous_format)
