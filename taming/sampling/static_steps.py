"""Decoding steps whose shapes do not change, for CUDA graphs and torch.compile.

b rows, p prefix length, n steps, d width, h heads, e head dimension, v vocabulary.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from taming.modules.transformer.fused import fuse
from taming.modules.transformer.mingpt import GPT, Block

BUCKET = 64
"""Attention reads the cache up to the next multiple of this length: one graph for so many steps."""

Choose = Callable[[Tensor, Tensor | None], Tensor]
"""From logits (b, v) and uniforms (b,) (None: take the most likely) to tokens (b,), negative where there is none."""


class StaticSteps:
    """Continues prefixes of one shape, one token a step.

    All that a step reads or writes lies in buffers: the tokens, the keys and values, the random numbers, and the
    position, which is a tensor. So a step needs nothing from the host, and on CUDA it is replayed as a graph, one per
    bucket of cache lengths.

    `choose` must give the same number of rows as it gets. compile=True passes the step through torch.compile first.
    """

    def __init__(self, gpt: GPT, rows: int, known: int, steps: int, choose: Choose, *, compile: bool = False) -> None:
        device = gpt.pos_emb.device
        self.gpt, self.known, self.steps, self.choose = gpt, known, steps, choose
        self.cache = gpt.new_cache(rows, known + steps - 1)
        for buffer in self.cache.keys + self.cache.values:
            buffer.zero_()  # what lies beyond the position is masked, but 0 times NaN would not be 0
        self.tokens = torch.zeros(rows, known + steps, dtype=torch.int64, device=device)
        self.uniforms = torch.zeros(rows, steps, dtype=uniform_dtype(device), device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.invalid = torch.zeros(rows, dtype=torch.bool, device=device)
        self._qkv = [fuse((block.attn.query, block.attn.key, block.attn.value)) for block in gpt.blocks]
        self._step = torch.compile(self._one_step, dynamic=False) if compile else self._one_step
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def run(self, prefix: Tensor, uniforms: Tensor | None, callback: Callable[[int], None]) -> tuple[Tensor, Tensor]:
        """prefix (b, p), uniforms (b, n) -> tokens (b, n), and which rows (b,) met logits without a valid token.

        callback(k) is called before token k.
        """
        self.tokens[:, : self.known] = prefix
        if uniforms is not None:
            self.uniforms.copy_(uniforms)
        self.cache.reset()
        callback(0)
        logits = self.gpt.forward_cached(prefix, self.cache)
        first = self.choose(logits, self.uniforms[:, 0])
        self.tokens[:, self.known] = first.clamp(min=0)
        self.invalid.copy_(first < 0)
        self.position.fill_(self.known)
        for position in range(self.known, self.known + self.steps - 1):
            callback(position - self.known + 1)
            self._advance(min(_round_up(position + 1), self.cache.max_length))
        return self.tokens[:, self.known :].clone(), self.invalid.clone()

    def _advance(self, visible: int) -> None:
        if self.position.device.type != "cuda":
            self._step(visible)
            return
        if visible not in self._graphs:
            self._graphs[visible] = self._capture(visible)
        self._graphs[visible].replay()

    def _capture(self, visible: int) -> torch.cuda.CUDAGraph:
        """The step as a graph. Its rehearsals write only what the replay of the same position writes again."""
        position, invalid = self.position.clone(), self.invalid.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step(visible)
                self.position.copy_(position)
        torch.cuda.current_stream().wait_stream(stream)
        self.invalid.copy_(invalid)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self._graphs.values())).pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool):
            self._step(visible)
        return graph

    def _one_step(self, visible: int) -> None:
        """Read the token at `position`, which lies below `visible`, and write the one behind it."""
        gpt, position = self.gpt, self.position
        x = gpt.tok_emb(self.tokens.index_select(1, position)) + gpt.pos_emb.index_select(1, position)  # (b, 1, d)
        seen = (torch.arange(visible, device=position.device) <= position)[None]  # (1, visible)
        for layer, block in enumerate(gpt.blocks):
            x = self._block(block, layer, x, seen)
        uniforms = self.uniforms.index_select(1, position - (self.known - 1))[:, 0]
        chosen = self.choose(gpt.head(gpt.ln_f(x[:, -1])), uniforms)
        self.invalid.logical_or_(chosen < 0)
        self.tokens.index_copy_(1, position + 1, chosen.clamp(min=0)[:, None])
        position.add_(1)

    def _block(self, block: Block, layer: int, x: Tensor, seen: Tensor) -> Tensor:
        qkv = F.linear(block.ln1(x), *self._qkv[layer])
        query, key, value = rearrange(qkv, "b t (three h e) -> three b h t e", three=3, h=block.attn.n_head)
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys.index_copy_(2, self.position, key)
        values.index_copy_(2, self.position, value)
        visible = seen.shape[1]
        y = F.scaled_dot_product_attention(query, keys[:, :, :visible], values[:, :, :visible], attn_mask=seen)
        x = x + block.attn.proj(rearrange(y, "b h t e -> b t (h e)"))
        return x + block.mlp(block.ln2(x))


def uniform_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


def _round_up(length: int) -> int:
    return -(-length // BUCKET) * BUCKET
