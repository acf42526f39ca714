"""Convolutional encoder and decoder with residual and attention blocks (the autoencoder of Ho et al. 2020's U-Net).

b batch, c channels, h x w space; images are channel-first, nominally in [-1, 1]. The published import path of the
blocks and U-Nets too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from taming.modules.diffusionmodules.blocks import (
    AttnBlock,
    Downsample,
    Middle,
    Normalize,
    ResnetBlock,
    Upsample,
    activated,
    attention_levels,
    down_levels,
    get_timestep_embedding,
    nonlinearity,
    up_levels,
)
from taming.modules.diffusionmodules.unet import Model, SimpleDecoder, UpsampleDecoder, VUNet

__all__ = [
    "AttnBlock",
    "Decoder",
    "Downsample",
    "Encoder",
    "Model",
    "Normalize",
    "ResnetBlock",
    "SimpleDecoder",
    "Upsample",
    "UpsampleDecoder",
    "VUNet",
    "get_timestep_embedding",
    "nonlinearity",
]


class ConvolutionalHalf(nn.Module):
    """What Encoder and Decoder have in common: attributes that other code reads, and how a level is run.

    It has no constructor: the check of configs would take its keywords for the only ones that theirs accept.
    """

    def _describe(
        self,
        *,
        ch: int,
        levels: int,
        num_res_blocks: int,
        resolution: int,
        in_channels: int,
        dropout: float,
        gradient_checkpointing: bool,
    ) -> None:
        self.ch = ch
        self.temb_ch = 0
        self.num_resolutions = levels
        self.num_res_blocks = num_res_blocks
        self.resolution = resolution
        self.in_channels = in_channels
        self.gradient_checkpointing = gradient_checkpointing
        self._has_dropout = dropout > 0

    def _run(self, level: nn.Module, x: Tensor) -> Tensor:
        """level(x). Gradient checkpointing keeps x alone and computes the rest again in the backward pass."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(level, x, use_reentrant=False, preserve_rng_state=self._has_dropout)
        return level(x)


class Encoder(ConvolutionalHalf):
    """Image (b, in_channels, h, w) -> latent (b, z_channels, h / f, w / f), f = 2^(levels - 1), twice the channels if
    double_z. Attention blocks stand at the levels whose nominal resolution is in `attn_resolutions`; the network itself
    takes any size. Keywords it does not know are ignored: it shares its `ddconfig` with Decoder.

    gradient_checkpointing trades time for memory in training: the activations inside a level are not kept for the
    backward pass but computed again (Chen et al. 2016).
    """

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        in_channels: int,
        resolution: int,
        z_channels: int,
        double_z: bool = True,
        gradient_checkpointing: bool = False,
        **ignored,
    ) -> None:
        super().__init__()
        self._describe(
            ch=ch,
            levels=len(ch_mult),
            num_res_blocks=num_res_blocks,
            resolution=resolution,
            in_channels=in_channels,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )
        widths = [ch, *(ch * multiplier for multiplier in ch_mult)]
        attention = attention_levels(resolution, len(ch_mult), attn_resolutions)
        self.conv_in = nn.Conv2d(in_channels, ch, kernel_size=3, padding=1)
        self.down = down_levels(
            widths, num_res_blocks, attention=attention, dropout=dropout, resamp_with_conv=resamp_with_conv
        )
        self.mid = Middle(widths[-1], dropout)
        self.norm_out = Normalize(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * z_channels if double_z else z_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in (*self.down, self.mid):
            h = self._run(level, h)
        return self.conv_out(activated(self.norm_out, h))


class Decoder(ConvolutionalHalf):
    """Latent (b, z_channels, h, w) -> image (b, out_ch, f h, f w), f = 2^(levels - 1); see Encoder.

    With give_pre_end the features before the output layers are returned. Level i of `up` works at resolution / 2^i.
    """

    def __init__(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float = 0.0,
        resamp_with_conv: bool = True,
        in_channels: int,
        resolution: int,
        z_channels: int,
        give_pre_end: bool = False,
        gradient_checkpointing: bool = False,
        **ignored,
    ) -> None:
        super().__init__()
        self._describe(
            ch=ch,
            levels=len(ch_mult),
            num_res_blocks=num_res_blocks,
            resolution=resolution,
            in_channels=in_channels,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.give_pre_end = give_pre_end
        lowest = resolution // 2 ** (self.num_resolutions - 1)
        self.z_shape = (1, z_channels, lowest, lowest)
        widths = [ch, *(ch * multiplier for multiplier in ch_mult)]
        attention = attention_levels(resolution, len(ch_mult), attn_resolutions)
        self.conv_in = nn.Conv2d(z_channels, widths[-1], kernel_size=3, padding=1)
        self.mid = Middle(widths[-1], dropout)
        self.up = up_levels(
            widths, num_res_blocks, attention=attention, dropout=dropout, resamp_with_conv=resamp_with_conv
        )
        self.norm_out = Normalize(widths[1])
        self.conv_out = nn.Conv2d(widths[1], out_ch, kernel_size=3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        self.last_z_shape = z.shape
        h = self.conv_in(z)
        for level in (self.mid, *reversed(self.up)):
            h = self._run(level, h)
        return h if self.give_pre_end else self.conv_out(activated(self.norm_out, h))
