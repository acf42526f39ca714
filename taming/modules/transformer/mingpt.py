"""A GPT over codebook entries (Radford et al. 2019, in the shape of minGPT), the second stage of Taming Transformers.

b batch, t new positions, s all positions (past and new), v vocabulary, d width, h heads, e = d / h head dimension.
"""

import logging
from collections.abc import Callable, Sequence

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
        return self.resid_drop(self.proj(rearrange(y, "b h t e -> b t (h e)")))

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


class GPT(nn.Module):
    """Decoder-only transformer: token indices (b, t) -> logits (b, t, v).

    The first `n_unmasked` positions (a conditioning prefix) see each other in both directions.
    """

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
    ) -> None:
        super().__init__()
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
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd))
        self.drop = nn.Dropout(embd_pdrop)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(n_layer)))
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self.block_size = block_size
        self.config = config
        self.apply(_init_weights)

    def get_block_size(self) -> int:
        return self.block_size

    def forward(
        self, idx: Tensor, embeddings: Tensor | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (b, t, v) of idx (b, t), and the mean cross entropy to `targets` (b, t) in nats if there are any.

        `embeddings` (b, n, d) are placed before the tokens, their logits included in the result.
        """
        x = self.blocks(self._embed(idx, embeddings, past_length=0))
        logits = self.head(self.ln_f(x))
        return logits, _cross_entropy(logits, targets)

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

    def _embed(self, idx: Tensor, embeddings: Tensor | None, *, past_length: int) -> Tensor:
        x = self.tok_emb(idx)  # (b, t) -> (b, t, d)
        if embeddings is not None:
            x = torch.cat((embeddings, x), dim=1)
        end = past_length + x.shape[1]
        assert end <= self.block_size, f"{end} positions do not fit into block_size {self.block_size}"
        return self.drop(x + self.pos_emb[:, past_length:end])


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _cross_entropy(logits: Tensor, targets: Tensor | None) -> Tensor | None:
    if targets is None:
        return None
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (b, t, v), (b, t) -> ()


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


@torch.no_grad()
def sample_with_past(
    x: Tensor,
    model: GPT,
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
