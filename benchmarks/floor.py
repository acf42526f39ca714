"""How fast decoding could be: the bytes and operations that it cannot avoid, at the rates this machine reaches."""

import time
from dataclasses import dataclass

import torch
from measure import seconds


@dataclass(frozen=True)
class Roof:
    """Measured rates: bytes read per second, and operations per second of a square matrix product, by type."""

    bandwidth: float
    matmul: dict[str, float]

    def decoding_seconds(
        self,
        *,
        n_layer: int,
        n_embd: int,
        vocab_size: int,
        batch_size: int,
        tokens: int,
        dtype: torch.dtype,
    ) -> float:
        """The least time for `tokens` tokens of a batch: each step reads all weights once and the filled cache, and
        multiplies each weight with each row.
        """
        weights = n_layer * 12 * n_embd**2 + vocab_size * n_embd
        total = 0.0
        for length in range(1, tokens + 1):
            cache = 2 * n_layer * batch_size * length * n_embd
            read = (weights + cache) * dtype.itemsize / self.bandwidth
            computed = 2 * batch_size * (weights + 2 * n_layer * length * n_embd) / self.matmul[str(dtype)]
            total += max(read, computed)
        return total


def measure_roof(device: torch.device) -> Roof:
    """Best of several tries on this device."""
    big = torch.ones(64 * 2**20 if device.type == "cpu" else 2**30, device=device)
    bandwidth = big.numel() * big.element_size() / min(seconds(big.sum, device) for _ in range(5))
    del big
    side = 1024 if device.type == "cpu" else 8192
    dtypes = (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16)
    return Roof(bandwidth, {str(dtype): _matmul_rate(side, dtype, device) for dtype in dtypes})


def _matmul_rate(side: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    end = time.monotonic() + 1
    best = seconds(lambda: a @ b, device)
    while time.monotonic() < end:
        best = min(best, seconds(lambda: a @ b, device))
    return 2 * side**3 / best
