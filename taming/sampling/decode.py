"""Token by token: a GPT continues a prefix with a key/value cache, and its plain twin without.

b batch, p prefix length, v vocabulary.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from taming.modules.transformer.mingpt import GPT
from taming.sampling.filtering import next_token

Key = tuple[int | None, int]
"""What names a sample: its class (None if unconditional) and its index within the class."""


def sample_uniforms(seed: int, keys: Sequence[Key], steps: int) -> Tensor:
    """Random numbers in [0, 1) for `steps` tokens of each sample, float64 (b, steps), on the CPU.

    Counter-based (Philox; Salmon et al. 2011): entry (k, t) depends on the seed (0 <= seed < 2**128), keys[k] and t
    only, not on which samples share the batch or how many steps follow.
    """
    return torch.from_numpy(np.stack([_stream(seed, *key).random(steps) for key in keys]))


def _stream(seed: int, label: int | None, index: int) -> np.random.Generator:
    # The generator counts in the lowest of the four 64-bit words of its counter, so no two samples' streams meet.
    counter = np.array([0, 0, index, 0 if label is None else label + 1], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


@torch.no_grad()
def decode(gpt: GPT, prefix: Tensor, steps: int, *, uniforms: Tensor | None = None, **filters) -> Tensor:
    """Continue prefix int64 (b, p) by `steps` tokens, which are returned alone: int64 (b, steps).

    `uniforms` (b, steps) in [0, 1) are what is drawn with (see `sample_uniforms`), `filters` the options of
    `next_token`; sample=False takes the most likely tokens and needs no uniforms. Each position is computed once (the
    keys and values of the past are cached), and no step waits for the device. Raises ValueError for options out of
    range, for logits that allow no token, and if p + steps > block_size + 1 or p < n_unmasked.
    """
    _check_lengths(gpt, prefix, steps)
    cache = gpt.new_cache(prefix.shape[0], prefix.shape[1] + steps - 1)
    return _decode(
        lambda tokens: gpt.forward_cached(tokens[:, cache.length :], cache), prefix, steps, uniforms, filters
    )


@torch.no_grad()
def decode_reference(gpt: GPT, prefix: Tensor, steps: int, *, uniforms: Tensor | None = None, **filters) -> Tensor:
    """The plain twin of `decode`: the whole sequence again at every step."""
    _check_lengths(gpt, prefix, steps)
    return _decode(lambda tokens: gpt(tokens)[0][:, -1], prefix, steps, uniforms, filters)


def _decode(
    next_logits: Callable[[Tensor], Tensor], prefix: Tensor, steps: int, uniforms: Tensor | None, filters: dict
) -> Tensor:
    """`next_logits` maps all tokens so far to the logits (b, v) of the next."""
    batch_size, known = prefix.shape
    tokens = torch.cat((prefix, prefix.new_zeros(batch_size, steps)), dim=1)
    invalid = torch.zeros(batch_size, dtype=torch.bool, device=prefix.device)
    columns = [None] * steps if uniforms is None else _on_device(uniforms, prefix.device).unbind(dim=1)
    for position, column in enumerate(columns, start=known):
        chosen = next_token(next_logits(tokens[:, :position]), column, **filters)
        invalid |= chosen < 0
        tokens[:, position] = chosen.clamp(min=0)
    if invalid.any():
        raise ValueError(
            f"{int(invalid.sum())} of {batch_size} samples: the transformer's logits are not finite; "
            "check its weights, or sample with --precision 32"
        )
    return tokens[:, known:]


def _on_device(uniforms: Tensor, device: torch.device) -> Tensor:
    return uniforms.to(torch.float32 if device.type == "mps" else torch.float64).to(device)  # MPS has no float64


def _check_lengths(gpt: GPT, prefix: Tensor, steps: int) -> None:
    assert not gpt.training, "decode in eval mode"
    length = prefix.shape[1]
    if length + steps > gpt.block_size + 1:
        raise ValueError(
            f"{length} tokens before and {steps} to come do not fit into block_size {gpt.block_size} "
            f"(at most {gpt.block_size + 1 - length} to come)"
        )
    if length < gpt.config.n_unmasked:
        raise ValueError(f"a prefix of {length} tokens must cover the n_unmasked = {gpt.config.n_unmasked} positions")
