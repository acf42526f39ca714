"""Keys and values of windows: kept as long as later cells read them, and several windows read in one pass.

b samples, g windows, t new positions of each window, s all its positions, v vocabulary, d width, e head dimension.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from taming.modules.transformer.blocks import Block
from taming.modules.transformer.cache import KeyValueCache
from taming.modules.transformer.mingpt import GPT

Use = tuple[int, int]
"""A step that reads a window, and how many positions of the window it reads."""


class WindowCaches:
    """The caches of windows that will be read again, as far as `max_bytes` allow; windows are named by any key.

    `uses` holds the uses of each window in ascending order, and they must come in that order: `take` a window, read it,
    `release` it. Where memory runs short, windows that are read again soonest are kept: the others' next readers start
    from nothing.
    """

    def __init__(self, gpt: GPT, batch_size: int, uses: Mapping[Hashable, Iterable[Use]], max_bytes: int) -> None:
        self._gpt, self._batch_size, self._max_bytes = gpt, batch_size, max_bytes
        self._uses = {key: deque(of_key) for key, of_key in uses.items()}
        self._lengths = {key: of_key[-1][1] for key, of_key in self._uses.items()}
        self._held: dict[Hashable, KeyValueCache] = {}

    @property
    def held_bytes(self) -> int:
        return sum(map(self._bytes, self._held))

    def take(self, key: Hashable) -> KeyValueCache | None:
        """The window's cache, perhaps an empty one, to read the window with; None if nothing is to be kept of it."""
        if key not in self._held and self._make_room(key):
            self._held[key] = self._gpt.new_cache(self._batch_size, self._lengths[key])
        return self._held.get(key)

    def release(self, key: Hashable) -> None:
        """The use for which the window was taken is over."""
        self._uses[key].popleft()
        if not self._uses[key]:
            self._held.pop(key, None)

    def _make_room(self, key: Hashable) -> bool:
        """Whether a cache of `key` is worth its memory; then those that are read again later make room for it."""
        if len(self._uses[key]) < 2:
            return False
        next_step = self._uses[key][1][0]
        later = [other for other in self._held if self._next_step(other) > next_step]
        later.sort(key=self._next_step)
        missing = self.held_bytes + self._bytes(key) - self._max_bytes
        dropped = []
        while missing > 0 and later:
            dropped.append(later.pop())
            missing -= self._bytes(dropped[-1])
        if missing > 0:
            return False
        for other in dropped:
            del self._held[other]
        return True

    def _next_step(self, key: Hashable) -> int:
        return self._uses[key][0][0]

    def _bytes(self, key: Hashable) -> int:
        config, element_size = self._gpt.config, self._gpt.pos_emb.element_size()
        return 2 * config.n_layer * self._batch_size * config.n_embd * self._lengths[key] * element_size


def read_windows(gpt: GPT, tokens: Tensor, caches: Sequence[KeyValueCache | None]) -> Tensor:
    """The next tokens int64 (g*b, t) of g windows -> the logits (g*b, v) behind the last of them.

    caches[k] holds the past of window k, if it has one, and is extended; None starts from nothing and keeps nothing.
    Either all windows have a past or none has. Of the last layer only keys and values are computed for all positions.
    """
    lengths = [0 if cache is None else cache.length for cache in caches]
    rows, new = tokens.shape[0] // len(caches), tokens.shape[1]
    positions = [gpt.pos_emb[:, length : length + new].expand(rows, -1, -1) for length in lengths]  # g of (b, t, d)
    x = gpt.tok_emb(tokens) + torch.cat(positions)
    for layer, block in enumerate(gpt.blocks):
        query, key, value = block.attn.project(block.ln1(x))  # each (g*b, heads, t, e)
        if layer == len(gpt.blocks) - 1:
            query, x = query[:, :, -1:], x[:, -1:]
        x = x + block.attn.proj(_attend(block, query, key, value, caches, layer))
        x = x + block.mlp(block.ln2(x))
    for cache in caches:
        if cache is not None:
            cache.advance(new)
    return gpt.head(gpt.ln_f(x[:, -1]))


def _attend(
    block: Block, query: Tensor, key: Tensor, value: Tensor, caches: Sequence[KeyValueCache | None], layer: int
) -> Tensor:
    """Every window's new positions look at all its positions; those are added to the caches. (g*b, t, d)."""
    rows = key.shape[0] // len(caches)
    keys, values = key.split(rows), value.split(rows)  # g of (b, heads, t, e)
    everything = [
        cache.append(layer, keys[k], values[k]) for k, cache in enumerate(caches) if cache is not None
    ]  # of (b, heads, s, e)
    if caches[0] is None or caches[0].length == 0:
        return block.attn.weighted_values(query, key, value)
    parts = zip(query.split(rows), everything, strict=True)
    return torch.cat([block.attn.weighted_values(part, *pair) for part, pair in parts])
