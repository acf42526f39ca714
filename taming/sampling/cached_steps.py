"""Decoding steps on the CPU: growing caches, and weights laid out for products with few rows.

b rows, d width, h heads, e head dimension, s filled positions, v vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.modules.transformer.blocks import Block
from taming.modules.transformer.cache import KeyValueCache
from taming.modules.transformer.fused import fuse
from taming.modules.transformer.mingpt import GPT

Linear = Callable[[Tensor], Tensor]
"""(b, d) -> (b, outputs)."""


class CachedSteps:
    """Reads one new token per row, as `GPT.forward_cached` does, but faster; for a fixed number of rows.

    In float32 it holds the weights a second time, in the order in which such products read them.
    """

    def __init__(self, gpt: GPT, rows: int) -> None:
        self.gpt = gpt
        self.layers = [_Layer(block, rows) for block in gpt.blocks]
        self.head = laid_out([gpt.head], rows)

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Tokens (b,) -> the logits (b, v) that follow them; adds them to `cache`."""
        x = self.gpt.tok_emb(tokens) + self.gpt.pos_emb[0, cache.length]  # (b, d)
        for index, layer in enumerate(self.layers):
            x = layer(x, cache, index)
        cache.advance(1)
        return self.head(self.gpt.ln_f(x))


class _Layer:
    def __init__(self, block: Block, rows: int) -> None:
        attn = block.attn
        self.ln1, self.ln2, self.n_head = block.ln1, block.ln2, attn.n_head
        self.project = laid_out([attn.query, attn.key, attn.value], rows)
        self.merge = laid_out([attn.proj], rows)
        self.widen, self.narrow = laid_out([block.mlp[0]], rows), laid_out([block.mlp[2]], rows)

    def __call__(self, x: Tensor, cache: KeyValueCache, index: int) -> Tensor:
        projected = self.project(_normalized(self.ln1, x))
        query, key, value = projected.view(len(x), 3, self.n_head, 1, -1).unbind(1)  # (b, 3 h e) -> 3 of (b, h, 1, e)
        y = F.scaled_dot_product_attention(query, *cache.append(index, key, value))
        x = x + self.merge(y.flatten(1))  # (b, h, 1, e) -> (b, d)
        return x + self.narrow(F.gelu(self.widen(_normalized(self.ln2, x))))


def _normalized(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """norm(x), without what calling a module costs."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def laid_out(linears: Sequence[nn.Linear], rows: int) -> Linear:
    """The outputs of `linears` side by side, for inputs of `rows` rows.

    Such products are bound by how the weights lie in memory. Found on AVX2: one row is a matrix-vector product, 1.4x
    faster over the transposed weight where that is wide; for more rows oneDNN's blocked layout gives 1.1x to 2x.
    """
    weight, bias = fuse(linears) if len(linears) > 1 else (linears[0].weight.detach(), linears[0].bias)
    n_outputs, n_inputs = weight.shape
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return _plain(weight, bias)
    if rows == 1:
        return partial(_times, weight.t().contiguous(), bias) if n_outputs > n_inputs else _plain(weight, bias)
    return _blocked(weight, bias, rows) if torch.backends.mkldnn.is_available() else _plain(weight, bias)


def _plain(weight: Tensor, bias: Tensor | None) -> Linear:
    return partial(F.linear, weight=weight, bias=bias)


def _times(transposed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return x @ transposed if bias is None else torch.addmm(bias, x, transposed)


def _blocked(weight: Tensor, bias: Tensor | None, rows: int) -> Linear:
    """What torch.compile makes of frozen linear layers on the CPU."""
    blocked = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, blocked, bias, "none", [], "")
