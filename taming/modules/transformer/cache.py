"""The key/value cache of incremental decoding: memory for all positions is taken once, each step writes in place."""

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of the positions a GPT has already read, one preallocated pair of tensors per layer.

    keys[i], values[i]: (b, heads, max_length, head_dim), of which the first `length` positions are filled.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        n_head: int,
        max_length: int,
        head_dim: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (batch_size, n_head, max_length, head_dim)
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.max_length = max_length
        self.length = 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (b, heads, t, head_dim) behind the filled positions of `layer`; return all filled ones, these included.

        `length` moves only with `advance`, so that every layer of one forward pass writes to the same place.
        """
        end = self.length + key.shape[2]
        assert end <= self.max_length, f"the cache holds {self.max_length} positions, {end} are needed"
        self.keys[layer][:, :, self.length : end] = key
        self.values[layer][:, :, self.length : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, steps: int) -> None:
        self.length += steps

    def reset(self) -> None:
        """Forget every position; the memory stays."""
        self.length = 0
