"""From logits to the next token: temperature, top-k, top-p, and one draw whose random number is an argument.

b batch, v vocabulary.
"""

import torch
from torch import Tensor

from taming.modules.transformer.mingpt import top_k_top_p_filtering

INVALID = -1
"""Stands for the token of a row whose logits allow none: NaN, +inf, or all -inf."""


@torch.no_grad()
def next_token(
    logits: Tensor,
    uniforms: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    sample: bool = True,
    n_tokens: int | None = None,
) -> Tensor:
    """One token per row of logits (b, v), int64 (b,); drawn with uniforms (b,) in [0, 1), or the most likely one.

    Logits are divided by `temperature`, cut to the `top_k` largest (None, < 1 and >= v keep all, ties stay), then to
    the nucleus of mass `top_p` (Holtzman et al. 2020, eq. 2). `n_tokens` leaves the first entries of the vocabulary
    only. A row without a valid token gives INVALID; nothing here waits for the device. Raises ValueError for
    temperature <= 0 and top_p outside (0, 1].
    """
    check_filters(temperature, top_p)
    logits = logits[:, :n_tokens].float()
    if sample:
        assert uniforms is not None, "drawing needs uniforms"
        filtered = top_k_top_p_filtering(logits / temperature, top_k=top_k, top_p=top_p)
        tokens = _draw(filtered, uniforms)
    else:
        tokens = logits.argmax(dim=-1)
    return tokens.masked_fill(~logits.amax(dim=-1).isfinite(), INVALID)


def check_filters(temperature: float, top_p: float) -> None:
    """Raises ValueError for values that `next_token` cannot use."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}; small values come close to arg-max")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], not {top_p}; 1 is off")


def _draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse CDF: the first token whose cumulative probability exceeds the uniform (b,), int64 (b,)."""
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
    probabilities = logits.to(dtype).softmax(dim=-1)
    # A parallel sum may round differently from one entry to the next, so impossible tokens are taken out by name.
    cdf = probabilities.cumsum(dim=-1).masked_fill(probabilities == 0, -1)
    total = cdf.amax(dim=-1)
    threshold = torch.minimum(uniforms.to(dtype) * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cdf > threshold[:, None]).int().argmax(dim=-1)
