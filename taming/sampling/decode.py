"""Token by token: a GPT continues a prefix with a key/value cache, and its plain twin without.

b batch, p prefix length, n steps, v vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from taming.modules.transformer.filters import guide
from taming.modules.transformer.mingpt import GPT
from taming.sampling.cached_steps import CachedSteps
from taming.sampling.filtering import next_token
from taming.sampling.static_steps import Choose, StaticSteps, uniform_dtype

Key = tuple[int | None, int]
"""What names a sample: its class (None if unconditional) and its index within the class."""
NextLogits = Callable[[Tensor], Tensor]
"""From all tokens so far, (b, t), to the logits (b, v) of the next."""
MIN_STEPS = 16
"""For fewer tokens it does not pay to lay the weights out anew."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, see `taming.modules.transformer.filters.guide`.

    null_prefix int64 (b, p) is the prefix with the conditioning taken out. A scale of 1 changes nothing.
    """

    null_prefix: Tensor
    scale: float


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


class Decoder:
    """Continues prefixes with one GPT. What it prepares for one batch serves the next of the same shape.

    On CUDA the steps are replayed as graphs, which are kept; compile=True passes them through torch.compile as well, on
    any device.
    """

    def __init__(self, gpt: GPT, *, compile: bool = False) -> None:
        self.gpt, self.compile = gpt, compile
        self._cached: CachedSteps | None = None
        self._cached_key: tuple | None = None
        self._static: StaticSteps | None = None
        self._static_key: tuple | None = None

    @torch.no_grad()
    def __call__(
        self,
        prefix: Tensor,
        steps: int,
        *,
        uniforms: Tensor | None = None,
        guidance: Guidance | None = None,
        callback: Callable[[int], None] = lambda k: None,
        **filters,
    ) -> Tensor:
        """See `decode`; callback(k) is called before token k."""
        rows = _rows(self.gpt, prefix, steps, guidance)
        uniforms = _for_rows(uniforms, rows)
        choose = _chooser(guidance, filters)
        if steps > 1 and (self.compile or rows.device.type == "cuda"):
            key = (rows.shape, steps, guidance and guidance.scale, tuple(sorted(filters.items())))
            tokens, invalid = self._static_steps(key, choose).run(rows, uniforms, callback)
        else:
            tokens, invalid = _decode(self._next_logits(rows, steps), rows, steps, uniforms, choose, callback)
        return _valid(tokens, invalid, prefix.shape[0])

    def _next_logits(self, rows: Tensor, steps: int) -> NextLogits:
        cache = self.gpt.new_cache(rows.shape[0], rows.shape[1] + steps - 1)
        step = self._cached_steps(len(rows)) if steps >= MIN_STEPS else None

        def next_logits(known: Tensor) -> Tensor:
            if cache.length == 0 or step is None:
                return self.gpt.forward_cached(known[:, cache.length :], cache)
            return step(known[:, -1], cache)

        return next_logits

    def _cached_steps(self, rows: int) -> CachedSteps:
        if self._cached_key != (rows, *self._versions()):
            self._cached = None  # frees its memory before the new one takes some
            self._cached = CachedSteps(self.gpt, rows)
            self._cached_key = (rows, *self._versions())  # it holds copies of the weights
        return self._cached

    def _versions(self) -> list[tuple[int, int]]:
        return [(parameter.data_ptr(), parameter._version) for parameter in self.gpt.parameters()]

    def _static_steps(self, key: tuple, choose: Choose) -> StaticSteps:
        (rows, known), steps = key[:2]
        if self._static_key != (*key, *self._addresses()):
            self._static = None
            self._static = StaticSteps(self.gpt, rows, known, steps, choose, compile=self.compile)
            self._static_key = (*key, *self._addresses())  # a graph reads fixed addresses
        return self._static

    def _addresses(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self.gpt.parameters()]


def decode(
    gpt: GPT,
    prefix: Tensor,
    steps: int,
    *,
    uniforms: Tensor | None = None,
    guidance: Guidance | None = None,
    compile: bool = False,
    callback: Callable[[int], None] = lambda k: None,
    **filters,
) -> Tensor:
    """Continue prefix int64 (b, p) by `steps` tokens, which are returned alone: int64 (b, steps).

    `uniforms` (b, steps) in [0, 1) are what is drawn with (see `sample_uniforms`), `filters` the options of
    `next_token`; sample=False takes the most likely tokens and needs no uniforms. Each position is computed once (the
    keys and values of the past are cached), and no step waits for the device. Raises ValueError for options out of
    range, for logits that allow no token, and if p + steps > block_size + 1 or p < n_unmasked. callback(k) is called
    before token k. For many batches of one shape make one `Decoder`.
    """
    options = {"uniforms": uniforms, "guidance": guidance, "callback": callback}
    return Decoder(gpt, compile=compile)(prefix, steps, **options, **filters)


@torch.no_grad()
def decode_reference(
    gpt: GPT, prefix: Tensor, steps: int, *, uniforms: Tensor | None = None, guidance: Guidance | None = None, **filters
) -> Tensor:
    """The plain twin of `decode`: the whole sequence again at every step."""
    rows = _rows(gpt, prefix, steps, guidance)
    choose = _chooser(guidance, filters)
    uniforms = _for_rows(uniforms, rows)
    tokens, invalid = _decode(lambda known: gpt(known)[0][:, -1], rows, steps, uniforms, choose, lambda k: None)
    return _valid(tokens, invalid, prefix.shape[0])


def _decode(
    next_logits: NextLogits,
    prefix: Tensor,
    steps: int,
    uniforms: Tensor | None,
    choose: Choose,
    callback: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Tokens (b, n) and which rows (b,) met logits without a valid token."""
    batch_size, known = prefix.shape
    tokens = torch.cat((prefix, prefix.new_zeros(batch_size, steps)), dim=1)
    invalid = torch.zeros(batch_size, dtype=torch.bool, device=prefix.device)
    columns = [None] * steps if uniforms is None else uniforms.unbind(dim=1)
    for position, column in enumerate(columns, start=known):
        callback(position - known)
        chosen = choose(next_logits(tokens[:, :position]), column)
        invalid |= chosen < 0
        tokens[:, position] = chosen.clamp(min=0)
    return tokens[:, known:], invalid


def _rows(gpt: GPT, prefix: Tensor, steps: int, guidance: Guidance | None) -> Tensor:
    """What is decoded: the prefixes (b, p), under guidance followed by those without conditioning, (2b, p)."""
    _check_lengths(gpt, prefix, steps)
    if guidance is None:
        return prefix
    assert guidance.null_prefix.shape == prefix.shape, (guidance.null_prefix.shape, prefix.shape)
    return torch.cat((prefix, guidance.null_prefix))


def _for_rows(uniforms: Tensor | None, rows: Tensor) -> Tensor | None:
    """The random numbers (b, n) on the device of the rows, repeated for those without conditioning."""
    if uniforms is None:
        return None
    return uniforms.to(uniform_dtype(rows.device)).to(rows.device).repeat(len(rows) // len(uniforms), 1)


def _chooser(guidance: Guidance | None, filters: dict) -> Choose:
    if guidance is None:
        return partial(next_token, **filters)
    return partial(_guided_token, scale=guidance.scale, filters=filters)


def _guided_token(logits: Tensor, uniforms: Tensor | None, *, scale: float, filters: dict) -> Tensor:
    """The same tokens (2b,) for both halves of logits (2b, v)."""
    conditional, null = logits.float().chunk(2)
    uniforms = None if uniforms is None else uniforms.chunk(2)[0]
    return next_token(guide(conditional, null, scale), uniforms, **filters).repeat(2)


def _valid(tokens: Tensor, invalid: Tensor, batch_size: int) -> Tensor:
    """The tokens of the first rows; raises ValueError if any of them met logits without a valid token."""
    if invalid[:batch_size].any():
        raise ValueError(
            f"{int(invalid[:batch_size].sum())} of {batch_size} samples: the transformer's logits are not finite; "
            "check its weights, or sample with --precision 32"
        )
    return tokens[:batch_size]


def _check_lengths(gpt: GPT, prefix: Tensor, steps: int) -> None:
    assert not gpt.training, "decode in eval mode"
    length = prefix.shape[1]
    if length + steps > gpt.block_size + 1:
        raise ValueError(
            f"{length} tokens before and {steps} to come do not fit into block_size {gpt.block_size} "
            f"(at most {gpt.block_size + 1 - length} to come)"
        )
    n_unmasked = gpt.n_unmasked
    if length < n_unmasked:
        raise ValueError(f"a prefix of {length} tokens must cover the n_unmasked = {n_unmasked} positions")
