"""Latents of a first stage to be optimised, and its codebook as points that they snap to.

b batch, d code dimension, (h, w) latent grid, k entries, q tokens per position.
"""

import torch
from torch import Tensor, nn

from taming.modules.vqvae.base import flatten, straight_through, unflatten
from taming.modules.vqvae.codebook import nearest_code
from taming.modules.vqvae.quantize import EMAVectorQuantizer, VectorQuantizer2


def latents_to_optimize(stage: nn.Module, images: Tensor) -> Tensor:
    """Latents (b, d, h, w) of images (b, c, H, W) in [-1, 1], in the space of the codebook's entries.

    Of a quantizer that looks for the nearest entry they are what it reads. The others read something else (logits,
    unbounded numbers), so theirs are the entries that it chooses.
    """
    with torch.no_grad():
        if isinstance(stage.quantize, VectorQuantizer2 | EMAVectorQuantizer):
            return stage.quant_conv(stage.encoder(images))
        return stage.encode(images)[0]


class Codebook:
    """The entries of a first stage in eval mode. `lowest` and `highest` (1, d, 1, 1) bound what it decodes.

    For several tokens per position, of which an entry is the sum, snapping is the quantizer's own.
    """

    @torch.no_grad()
    def __init__(self, stage: nn.Module) -> None:
        self.quantize = stage.quantize
        self.device = next(stage.parameters()).device
        levels = [self._level(level) for level in range(self.quantize.tokens_per_position)]
        base = levels[0][0]  # of all codes 0, which each level has
        self.lowest = (base + sum(entries.amin(dim=0) - base for entries in levels)).view(1, -1, 1, 1)
        self.highest = (base + sum(entries.amax(dim=0) - base for entries in levels)).view(1, -1, 1, 1)
        self.entries = levels[0] if len(levels) == 1 else None

    def _level(self, level: int) -> Tensor:
        """Entries (k/q, d) of all codes of one level, those of the other levels being 0."""
        q = self.quantize.tokens_per_position
        codes = torch.zeros(self.quantize.re_embed // q, q, dtype=torch.int64, device=self.device)
        codes[:, level] = torch.arange(len(codes), device=self.device)
        return self.quantize.get_codebook_entry(codes.flatten(), None).float()

    def snap(self, z: Tensor) -> Tensor:
        """The entries nearest to latents (b, d, h, w), with the gradient of z."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            if self.entries is None:
                nearest = self.quantize(z)[0]
            else:
                nearest = unflatten(self.entries[nearest_code(flatten(z), self.entries)], z)
        return straight_through(z, nearest)

    @torch.no_grad()
    def clamp_(self, z: Tensor) -> Tensor:
        """Bring latents back between the lowest and highest entry of each channel, in place."""
        return z.copy_(torch.maximum(torch.minimum(z, self.highest), self.lowest))

    @torch.no_grad()
    def random(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Random entries (1, d, height, width)."""
        q = self.quantize.tokens_per_position
        shape = (1, height, width) if q == 1 else (1, height, width, q)
        codes = torch.randint(self.quantize.re_embed, shape, generator=generator, device=generator.device)
        return self.quantize.embed_code(codes.to(self.device)).float()
