"""The published samplers over a bare GPT; `taming.sampling.decode` is what the scripts use."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from taming.modules.transformer.filters import choose_token, top_k_logits, top_k_top_p_filtering


@torch.no_grad()
def sample(
    model: nn.Module, x: Tensor, steps: int, temperature: float = 1.0, sample: bool = False, top_k: int | None = None
) -> Tensor:
    """Continue x (b, t) by `steps` tokens, without a cache: (b, t + steps). Puts the model into eval mode.

    Each step sees the last block_size tokens only, so any number of steps is possible.
    """
    model.eval()
    for _ in range(steps):
        logits = model(x[:, -model.get_block_size() :])[0][:, -1] / temperature
        token = choose_token(top_k_logits(logits, top_k).softmax(dim=-1), sample=sample)
        x = torch.cat((x, token), dim=1)
    return x


@torch.no_grad()
def sample_with_past(
    x: Tensor,
    model: nn.Module,
    steps: int,
    temperature: float | None = 1.0,
    sample_logits: bool = True,
    top_k: int | None = None,
    top_p: float | None = None,
    callback: Callable[[int], None] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue x (b, t) by `steps` tokens with a key/value cache; returns only the new tokens (b, steps).

    Each step scales by 1 / temperature, filters (see top_k_top_p_filtering) and draws, or takes the most likely token
    where sample_logits is false. callback(step) is called before each step. t + steps may be at most block_size + 1.
    """
    assert not model.training, "sample in eval mode"
    cache = model.new_cache(x.shape[0], x.shape[1] + steps - 1)
    tokens = []
    new = x
    for step in range(steps):
        if callback is not None:
            callback(step)
        logits = model.forward_cached(new, cache) / (1.0 if temperature is None else temperature)
        probabilities = top_k_top_p_filtering(logits, top_k=top_k, top_p=top_p).softmax(dim=-1)
        new = choose_token(probabilities, sample=sample_logits, generator=generator)
        tokens.append(new)
    return torch.cat(tokens, dim=1)
