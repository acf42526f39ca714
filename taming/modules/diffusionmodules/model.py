"""Convolutional encoder and decoder with residual and attention blocks (the autoencoder of Ho et al. 2020's U-Net).

b batch, c channels, h x w space; images are channel-first, nominally in [-1, 1].
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def nonlinearity(x: Tensor) -> Tensor:
    """Swish."""
    return F.silu(x)


def Normalize(in_channels: int) -> nn.GroupNorm:
    """Group normalisation in 32 groups, or in as many as divide `in_channels` and 32 where small widths need it."""
    return nn.GroupNorm(num_groups=math.gcd(32, in_channels), num_channels=in_channels, eps=1e-6, affine=True)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution if `with_conv`."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")  # (b, c, h, w) -> (b, c, 2h, 2w)
        return self.conv(x) if self.with_conv else x


class Downsample(nn.Module):
    """Halves height and width (rounding down): a strided 3x3 convolution if `with_conv`, else means of 2x2 cells."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = nn.Conv2d(in_channels, in_channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if not self.with_conv:
            return F.avg_pool2d(x, kernel_size=2)
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # published padding: right and bottom only


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions and a shortcut; a timestep embedding (b, temb_channels) may shift the middle."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int | None = None,
        conv_shortcut: bool = False,
        dropout: float,
        temb_channels: int = 512,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.use_conv_shortcut = conv_shortcut
        self.norm1 = Normalize(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        if temb_channels > 0:
            self.temb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = Normalize(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        if in_channels != out_channels:
            if conv_shortcut:
                self.conv_shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
            else:
                self.nin_shortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.conv1(nonlinearity(self.norm1(x)))
        if temb is not None:
            h = h + self.temb_proj(nonlinearity(temb))[:, :, None, None]  # (b, c) -> (b, c, 1, 1)
        h = self.conv2(self.dropout(nonlinearity(self.norm2(h))))
        if self.in_channels != self.out_channels:
            x = self.conv_shortcut(x) if self.use_conv_shortcut else self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all h*w positions, added to its input."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.norm = Normalize(in_channels)
        self.q = nn.Conv2d(in_channels, in_channels, kernel_size=1)
        self.k = nn.Conv2d(in_channels, in_channels, kernel_size=1)
        self.v = nn.Conv2d(in_channels, in_channels, kernel_size=1)
        self.proj_out = nn.Conv2d(in_channels, in_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (rearrange(conv(normed), "b c h w -> b 1 (h w) c") for conv in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)  # scores divided by sqrt(c)
        return x + self.proj_out(rearrange(attended, "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Middle(nn.Module):
    """The lowest level of encoder and decoder: block, attention, block."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(in_channels=channels, dropout=dropout, temb_channels=0)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(in_channels=channels, dropout=dropout, temb_channels=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """`depth` residual blocks at one resolution, each followed by attention if asked for, then a change of resolution.

    Registration order, and with it the order of optimizer states: all blocks, all attentions, the resampling.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, *, attention: bool, dropout: float) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * depth
        self.block = nn.ModuleList(
            ResnetBlock(in_channels=before, out_channels=after, dropout=dropout, temb_channels=0)
            for before, after in pairwise(widths)
        )
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in range(depth if attention else 0))

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        for resample in ("downsample", "upsample"):
            if hasattr(self, resample):
                x = getattr(self, resample)(x)
        return x


class Encoder(nn.Module):
    """Image (b, in_channels, h, w) -> latent (b, z_channels, h / f, w / f), f = 2^(levels - 1), twice the channels if
    double_z. Attention blocks stand at the levels whose nominal resolution is in `attn_resolutions`; the network itself
    takes any size. Keywords it does not know are ignored: it shares its `ddconfig` with Decoder.
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
        **ignored,
    ) -> None:
        super().__init__()
        self.ch = ch
        self.temb_ch = 0
        self.num_resolutions = len(ch_mult)
        self.num_res_blocks = num_res_blocks
        self.resolution = resolution
        self.in_channels = in_channels
        self.conv_in = nn.Conv2d(in_channels, ch, kernel_size=3, padding=1)
        widths = [ch, *(ch * multiplier for multiplier in ch_mult)]
        self.down = nn.ModuleList()
        for i in range(self.num_resolutions):
            attention = resolution // 2**i in attn_resolutions
            level = Level(widths[i], widths[i + 1], num_res_blocks, attention=attention, dropout=dropout)
            if i < self.num_resolutions - 1:
                level.downsample = Downsample(widths[i + 1], resamp_with_conv)
            self.down.append(level)
        self.mid = Middle(widths[-1], dropout)
        self.norm_out = Normalize(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * z_channels if double_z else z_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(nonlinearity(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
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
        **ignored,
    ) -> None:
        super().__init__()
        self.ch = ch
        self.temb_ch = 0
        self.num_resolutions = len(ch_mult)
        self.num_res_blocks = num_res_blocks
        self.resolution = resolution
        self.in_channels = in_channels
        self.give_pre_end = give_pre_end
        lowest = resolution // 2 ** (self.num_resolutions - 1)
        self.z_shape = (1, z_channels, lowest, lowest)
        widths = [*(ch * multiplier for multiplier in ch_mult), ch * ch_mult[-1]]
        self.conv_in = nn.Conv2d(z_channels, widths[-1], kernel_size=3, padding=1)
        self.mid = Middle(widths[-1], dropout)
        self.up = nn.ModuleList()
        for i in range(self.num_resolutions):
            attention = resolution // 2**i in attn_resolutions
            level = Level(widths[i + 1], widths[i], num_res_blocks + 1, attention=attention, dropout=dropout)
            if i > 0:
                level.upsample = Upsample(widths[i], resamp_with_conv)
            self.up.append(level)
        self.norm_out = Normalize(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_ch, kernel_size=3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        self.last_z_shape = z.shape
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return h if self.give_pre_end else self.conv_out(nonlinearity(self.norm_out(h)))


def get_timestep_embedding(timesteps: Tensor, embedding_dim: int) -> Tensor:
    """Sinusoidal embedding of timesteps (n,) -> float32 (n, embedding_dim): sines, cosines, a zero if odd."""
    half = embedding_dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(10000) / (half - 1) * steps)
    angles = timesteps.float()[:, None] * frequencies[None, :]  # (n, half)
    embedding = torch.cat((angles.sin(), angles.cos()), dim=1)
    return F.pad(embedding, (0, embedding_dim % 2))
