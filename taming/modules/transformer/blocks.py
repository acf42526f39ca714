"""The blocks of a GPT: pre-norm, causal self-attention (Radford et al. 2019, in the shape of minGPT).

b batch, t new positions, s all positions (past and new), d width, h heads, e = d / h head dimension.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from taming.modules.transformer.cache import KeyValueCache

logger = logging.getLogger(__name__)


class GPTConfig:
    """Hyperparameters as attributes. The class attributes are the dropout rates of whoever passes none."""

    embd_pdrop = 0.1
    resid_pdrop = 0.1
    attn_pdrop = 0.1

    def __init__(self, vocab_size: int, block_size: int, **kwargs) -> None:
        self.vocab_size = vocab_size
        self.block_size = block_size
        for name, value in kwargs.items():
            setattr(self, name, value)


class GPT1Config(GPTConfig):
    """The size of GPT-1, roughly 125 M parameters."""

    n_layer = 12
    n_head = 12
    n_embd = 768


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which position i sees j iff j <= i, or both lie in the first `n_unmasked` positions."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd={config.n_embd} must be divisible by n_head={config.n_head}")
        self.key = nn.Linear(config.n_embd, config.n_embd)
        self.query = nn.Linear(config.n_embd, config.n_embd)
        self.value = nn.Linear(config.n_embd, config.n_embd)
        self.resid_drop = nn.Dropout(config.resid_pdrop)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.n_head = config.n_head
        self.attn_pdrop = config.attn_pdrop
        self.block_size = config.block_size
        self.n_unmasked = getattr(config, "n_unmasked", 0)

    def forward(self, x: Tensor, layer_past: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """x (b, t, d), perhaps after a (key, value) pair of the past -> y (b, t, d), present (2, b, h, t, e)."""
        query, key, value = self.project(x)
        present = torch.stack((key, value))
        if layer_past is not None:
            key = torch.cat((layer_past[0], key), dim=-2)
            value = torch.cat((layer_past[1], value), dim=-2)
        return self.attend(query, key, value), present

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of x (b, t, d), each (b, h, t, e)."""
        query, key, value = (
            rearrange(linear(x), "b t (h e) -> b h t e", h=self.n_head) for linear in (self.query, self.key, self.value)
        )
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The last t of s positions look at all s: query (b, h, t, e), key and value (b, h, s, e) -> (b, t, d)."""
        return self.resid_drop(self.proj(self.weighted_values(query, key, value)))

    def weighted_values(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What the last t of s positions see, before the output projection; shapes as in `attend`."""
        new, total = query.shape[2], key.shape[2]
        causal = new == total and self.n_unmasked <= 1
        y = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if causal or new == 1 else self._mask(new, total, query.device),
            dropout_p=self.attn_pdrop if self.training else 0.0,
            is_causal=causal and new > 1,
        )
        return rearrange(y, "b h t e -> b t (h e)")

    def _mask(self, new: int, total: int, device: torch.device) -> Tensor:
        """(t, s), true where a new position may look."""
        rows = torch.arange(total - new, total, device=device)[:, None]
        columns = torch.arange(total, device=device)[None, :]
        return (columns <= rows) | ((rows < self.n_unmasked) & (columns < self.n_unmasked))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        """Accept the causal mask that published checkpoints store as a buffer; what it says of `n_unmasked` counts."""
        mask = state_dict.pop(f"{prefix}mask", None)
        if mask is not None:
            expected = (1, 1, self.block_size, self.block_size)
            if tuple(mask.shape) != expected:
                errors.append(f"size mismatch for {prefix}mask: {tuple(mask.shape)} in the file, {expected} here.")
            elif not mask.is_meta:
                self._adopt_mask(int(mask[0, 0, 0].sum()), prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def _adopt_mask(self, n_unmasked: int, prefix: str) -> None:
        if max(n_unmasked, 1) != max(self.n_unmasked, 1):
            logger.warning(
                "%smask: %d positions unmasked in the checkpoint, n_unmasked=%d in the config; the checkpoint counts",
                prefix,
                n_unmasked,
                self.n_unmasked,
            )
            self.n_unmasked = n_unmasked


class Block(nn.Module):
    """Pre-norm transformer block: x += attention(ln1 x), then x += mlp(ln2 x)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.n_embd, 4 * config.n_embd),
            nn.GELU(),
            nn.Linear(4 * config.n_embd, config.n_embd),
            nn.Dropout(config.resid_pdrop),
        )

    def forward(self, x: Tensor, layer_past: Sequence[Tensor] | None = None, return_present: bool = False):
        """x (b, t, d) -> x, or (x, present) if there is a past or a present is asked for (see CausalSelfAttention)."""
        if layer_past is None and not return_present:
            x = x + self.attn.attend(*self.attn.project(self.ln1(x)))
            return x + self.mlp(self.ln2(x))
        assert not (return_present and self.training), "present keys and values are for eval mode"
        attended, present = self.attn(self.ln1(x), layer_past)
        x = x + attended
        return x + self.mlp(self.ln2(x)), present

    def forward_cached(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """As forward, with keys and values of the past taken from and the new ones added to `cache`."""
        query, key, value = self.attn.project(self.ln1(x))
        x = x + self.attn.attend(query, *cache.append(layer, key, value))
        return x + self.mlp(self.ln2(x))
