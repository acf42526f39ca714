"""A GPT over codebook entries (Radford et al. 2019, in the shape of minGPT), the second stage of Taming Transformers.

b batch, t new positions, s all positions (past and new), v vocabulary, d width, h heads, e = d / h head dimension.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from taming.modules.transformer.blocks import Block, CausalSelfAttention, GPT1Config, GPTConfig
from taming.modules.transformer.cache import KeyValueCache
from taming.modules.transformer.filters import choose_token, top_k_logits, top_k_top_p_filtering
from taming.modules.transformer.kmeans import KMeans
from taming.modules.transformer.samplers import sample, sample_with_past

__all__ = [
    "GPT",
    "Block",
    "CausalSelfAttention",
    "CodeGPT",
    "DummyGPT",
    "GPT1Config",
    "GPTConfig",
    "KMeans",
    "choose_token",
    "sample",
    "sample_with_past",
    "top_k_logits",
    "top_k_top_p_filtering",
]


class _Transformer(nn.Module):
    """Positions, blocks and head on embedded tokens. The first `n_unmasked` positions see each other both ways.

    gradient_checkpointing: in training keep only what goes into each block and compute the rest anew for its backward
    pass (Chen et al. 2016): a fraction of the memory for a third more arithmetic, and the same numbers.
    """

    def __init__(self, tok_emb: nn.Module, config: GPTConfig, *, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.tok_emb = tok_emb
        self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        self.drop = nn.Dropout(config.embd_pdrop)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.block_size = config.block_size
        self.config = config
        self.apply(_init_weights)

    @property
    def n_unmasked(self) -> int:
        """How many first positions see each other: the config's number, unless a checkpoint's masks said otherwise."""
        return max((block.attn.n_unmasked for block in self.blocks), default=0)

    @property
    def _recomputes(self) -> bool:
        return self.gradient_checkpointing and self.training and torch.is_grad_enabled()

    def get_block_size(self) -> int:
        return self.block_size

    def forward(
        self, idx: Tensor, embeddings: Tensor | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (b, t, v) of idx (b, t, ...), and the mean cross entropy to `targets` (b, t) in nats if there are any.

        `embeddings` (b, n, d) are placed before the tokens, their logits included in the result.
        """
        x = self._embed(idx, embeddings, past_length=0)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self._recomputes else block(x)
        logits = self.head(self.ln_f(x))
        return logits, _cross_entropy(logits, targets)

    def _embed(self, idx: Tensor, embeddings: Tensor | None, *, past_length: int) -> Tensor:
        x = self.tok_emb(idx)  # (b, t, ...) -> (b, t, d)
        if embeddings is not None:
            x = torch.cat((embeddings, x), dim=1)
        end = past_length + x.shape[1]
        assert end <= self.block_size, f"{end} positions do not fit into block_size {self.block_size}"
        return self.drop(x + self.pos_emb[:, past_length:end])


class GPT(_Transformer):
    """Decoder-only transformer: token indices (b, t) -> logits (b, t, v)."""

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int = 12,
        n_head: int = 8,
        n_embd: int = 256,
        embd_pdrop: float = 0.0,
        resid_pdrop: float = 0.0,
        attn_pdrop: float = 0.0,
        n_unmasked: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        config = GPTConfig(
            vocab_size=vocab_size,
            block_size=block_size,
            n_layer=n_layer,
            n_head=n_head,
            n_embd=n_embd,
            embd_pdrop=embd_pdrop,
            resid_pdrop=resid_pdrop,
            attn_pdrop=attn_pdrop,
            n_unmasked=n_unmasked,
        )
        super().__init__(nn.Embedding(vocab_size, n_embd), config, gradient_checkpointing=gradient_checkpointing)

    def forward_with_past(
        self,
        idx: Tensor,
        embeddings: Tensor | None = None,
        targets: Tensor | None = None,
        past: Sequence[Tensor] | None = None,
        past_length: int | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """As forward, after the positions whose presents (n_layer, 2, b, h, t_i, e) are listed in `past`.

        Returns logits and loss of the new positions and their presents. Faster: `new_cache` and `forward_cached`.
        """
        assert not self.training, "cached keys and values are for eval mode"
        layer_pasts: Sequence[Tensor | None] = [None] * len(self.blocks)
        if past is not None:
            assert past_length is not None, "past needs past_length"
            layer_pasts = torch.cat(list(past), dim=-2)
            head_dim = self.config.n_embd // self.config.n_head
            expected = (self.config.n_layer, 2, idx.shape[0], self.config.n_head, past_length, head_dim)
            assert tuple(layer_pasts.shape) == expected, f"past has shape {tuple(layer_pasts.shape)}, not {expected}"
        x = self._embed(idx, embeddings, past_length=past_length if past is not None else 0)
        presents = []
        for block, layer_past in zip(self.blocks, layer_pasts, strict=True):
            x, present = block(x, layer_past=layer_past, return_present=True)
            presents.append(present)
        logits = self.head(self.ln_f(x))
        return logits, _cross_entropy(logits, targets), torch.stack(presents)

    def new_cache(self, batch_size: int, length: int) -> KeyValueCache:
        """An empty cache for `length` positions of `batch_size` sequences, on this model's device and in its dtype."""
        return KeyValueCache(
            self.config.n_layer,
            batch_size,
            self.config.n_head,
            length,
            self.config.n_embd // self.config.n_head,
            device=self.pos_emb.device,
            dtype=self.pos_emb.dtype,
        )

    def forward_cached(self, idx: Tensor, cache: KeyValueCache) -> Tensor:
        """Read the next tokens idx (b, t), add them to `cache`, and return the logits (b, v) that follow the last one.

        Equal to forward(all tokens so far)[0][:, -1] if the first call covers at least `n_unmasked` positions.
        """
        x = self._embed(idx, None, past_length=cache.length)
        for layer, block in enumerate(self.blocks):
            x = block.forward_cached(x, cache, layer)
        cache.advance(x.shape[1])
        return self.head(self.ln_f(x[:, -1]))


class CodeGPT(_Transformer):
    """A GPT that reads vectors instead of tokens: idx is float (b, t, in_channels)."""

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        in_channels: int,
        n_layer: int = 12,
        n_head: int = 8,
        n_embd: int = 256,
        embd_pdrop: float = 0.0,
        resid_pdrop: float = 0.0,
        attn_pdrop: float = 0.0,
        n_unmasked: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        config = GPTConfig(
            vocab_size=vocab_size,
            block_size=block_size,
            in_channels=in_channels,
            n_layer=n_layer,
            n_head=n_head,
            n_embd=n_embd,
            embd_pdrop=embd_pdrop,
            resid_pdrop=resid_pdrop,
            attn_pdrop=attn_pdrop,
            n_unmasked=n_unmasked,
        )
        super().__init__(nn.Linear(in_channels, n_embd), config, gradient_checkpointing=gradient_checkpointing)


class DummyGPT(nn.Module):
    """For debugging: the "logits" are the indices plus a constant."""

    def __init__(self, add_value: int = 1) -> None:
        super().__init__()
        self.add_value = add_value

    def forward(self, idx: Tensor) -> tuple[Tensor, None]:
        return idx + self.add_value, None


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _cross_entropy(logits: Tensor, targets: Tensor | None) -> Tensor | None:
    if targets is None:
        return None
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (b, t, v), (b, t) -> ()
