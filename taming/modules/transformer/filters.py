"""What a transformer's logits become before a token is drawn: top-k, top-p, and the draw of the published samplers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def check_temperature(temperature: float) -> None:
    """Raises ValueError for temperatures that logits cannot be divided by."""
    if not temperature > 0:
        raise ValueError(
            f"temperature must be positive, not {temperature}; for the most likely tokens use sample=False, "
            "--greedy, or top_k=1"
        )


def guide(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, where scale = 1 + w) of logits with and without condition:
    away from what is likely without it, towards what is likely with it.
    """
    return null + scale * (conditional - null)


def top_k_logits(logits: Tensor, k: int | None) -> Tensor:
    """Logits (..., v) with -inf strictly below the k-th largest; ties stay. k None, < 1 or >= v keeps them all."""
    if k is None or k < 1 or k >= logits.shape[-1]:
        return logits
    threshold = torch.topk(logits, k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < threshold, -torch.inf)


def top_k_top_p_filtering(
    logits: Tensor,
    top_k: int | None = 0,
    top_p: float | None = 1.0,
    filter_value: float = -torch.inf,
    min_tokens_to_keep: int = 1,
) -> Tensor:
    """Keep the `top_k` largest of logits (b, v), then the nucleus of mass `top_p` (Holtzman et al. 2020, eq. 2).

    A token leaves the nucleus iff the mass of the larger ones already exceeds top_p, so the one that crosses it stays.
    top_k None or < 1, and top_p None, negative or >= 1, mean no filter.
    """
    if top_k is not None and top_k > 0:
        threshold = torch.topk(logits, min(max(top_k, min_tokens_to_keep), logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < threshold, filter_value)
    if top_p is not None and 0 <= top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1)
        outside = F.pad(mass[..., :-1] > top_p, (1, 0), value=False)
        outside[..., : max(min_tokens_to_keep, 1)] = False
        logits = logits.masked_fill(outside.scatter(-1, order, outside), filter_value)
    return logits


def choose_token(
    probabilities: Tensor, *, sample: bool, generator: torch.Generator | Sequence[torch.Generator] | None = None
) -> Tensor:
    """One token (b, 1) per row of probabilities (b, v): drawn, or the most likely one.

    A list of generators holds one per row; None is torch's global stream.
    """
    if not sample:
        return probabilities.topk(1, dim=-1).indices
    if generator is None or isinstance(generator, torch.Generator):
        return torch.multinomial(probabilities, 1, generator=generator)
    rows = zip(probabilities, generator, strict=True)
    return torch.stack([torch.multinomial(row, 1, generator=row_generator) for row, row_generator in rows])
