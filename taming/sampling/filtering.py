"""From logits to the next token: temperature, top-k, top-p, and one draw whose random number is an argument.

b batch, v vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from taming.modules.transformer.filters import check_temperature, top_k_top_p_filtering

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
        tokens = _sample(logits / temperature, uniforms, top_k, top_p)
    else:
        tokens = logits.argmax(dim=-1)
    return tokens.masked_fill(~logits.amax(dim=-1).isfinite(), INVALID)


def _sample(logits: Tensor, uniforms: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Filter and draw; on the CPU among the top-k tokens alone, which is the same and several times faster."""
    if logits.device.type != "cpu" or top_k is None or not 0 < top_k < logits.shape[-1] / 2:
        return _draw(restrict(logits, top_k=top_k, top_p=top_p), uniforms)
    largest, tokens = logits.topk(top_k, dim=-1, sorted=False)
    if (logits >= largest.amin(dim=-1, keepdim=True)).sum() != tokens.numel():  # ties at the threshold, or NaN
        return _draw(restrict(logits, top_k=top_k, top_p=top_p), uniforms)
    tokens = tokens.sort(dim=-1).values
    return tokens.gather(-1, _draw(restrict(logits.gather(-1, tokens), top_p=top_p), uniforms)[:, None])[:, 0]


def restrict(logits: Tensor, *, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """What `top_k_top_p_filtering` makes of logits (b, v), without sorting the vocabulary if top_k is on.

    Where logits are tied at the edge of the nucleus, those of lower index stay.
    """
    if top_k is None or not 0 < top_k < logits.shape[-1]:
        return top_k_top_p_filtering(logits, top_p=top_p)
    largest, order = logits.topk(top_k, dim=-1)  # (b, k), descending
    kept = logits >= largest[:, -1:]  # with ties at the threshold, which are more than k
    if top_p < 1:
        kept = _nucleus(logits, kept, largest, order, top_p)
    return logits.masked_fill(~kept, -torch.inf)


def _nucleus(logits: Tensor, kept: Tensor, largest: Tensor, order: Tensor, top_p: float) -> Tensor:
    """The part of `kept` (b, v) before which no more mass than top_p lies; largest and order (b, k) are its head."""
    total = logits.masked_fill(~kept, -torch.inf).logsumexp(dim=-1, keepdim=True)
    probabilities = (largest - total).exp()
    mass = probabilities.cumsum(dim=-1)
    inside = F.pad(mass[:, :-1] <= top_p, (1, 0), value=True)  # of the head; the first one always stays
    tied = kept.scatter(-1, order, False)  # beyond the head, all as likely as its last one
    rank = tied.cumsum(dim=-1) - 1
    tied &= mass[:, -1:] + rank * probabilities[:, -1:] <= top_p
    return tied.scatter(-1, order, inside)


def check_filters(temperature: float, top_p: float) -> None:
    """Raises ValueError for values that `next_token` cannot use."""
    check_temperature(temperature)
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
