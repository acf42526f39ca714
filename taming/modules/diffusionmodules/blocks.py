"""Building blocks of the convolutional encoder, decoder and U-Nets (Ho et al. 2020, appendix B).

b batch, c channels, h x w space, e width of the timestep embedding; images are channel-first, nominally in [-1, 1].
"""

import math
from collections.abc import Sequence

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


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """Swish of the normalised x. Where no gradient needs it, in the memory of the normalised one: large new blocks of
    memory cost as much time as the arithmetic."""
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


def added(x: Tensor, change: Tensor) -> Tensor:
    """x + change; in the memory of `change`, which nobody else may need, where no gradient needs it."""
    if torch.is_grad_enabled() or change.dtype != x.dtype:
        return x + change
    return change.add_(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution if `with_conv`."""

    def __init__(self, in_channels: int, with_conv: bool) -> None:
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, 2h, 2w)."""
        if self.with_conv and x.device.type == "cpu":
            return conv_of_doubled(x, self.conv.weight, self.conv.bias)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x) if self.with_conv else x


def conv_of_doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Padded 3x3 convolution of the doubled x (b, i, h, w), nearest neighbours, with 4 instead of 9 products a pixel.

    Rows 2 r and 2 r + 1 of the result see rows r-1, r, r and r, r, r+1 of x, so two taps do, k0 and k1 + k2 or k0 + k1
    and k2; likewise its columns. weight (o, i, 3, 3), bias (o,) -> (b, o, 2h, 2w). Measured on the CPU only.
    """
    (b, _, h, w), o = x.shape, len(weight)
    kernels = [kernel for rows in _two_taps(weight, dim=2) for kernel in _two_taps(rows, dim=3)]  # 4 of (o, i, 2, 2)
    y = F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.cat(kernels), bias.repeat(4))  # (b, 4 o, h + 1, w + 1)
    size, memory_format = (b, o, 2 * h, 2 * w), _memory_format(x)
    doubled = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=memory_format)
    for place, part in enumerate(y.split(o, dim=1)):
        row, column = divmod(place, 2)
        doubled[:, :, row::2, column::2] = part[:, :, row : row + h, column : column + w]
    return doubled


def _two_taps(kernel: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    first, middle, last = kernel.unbind(dim)
    return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)


def _memory_format(x: Tensor) -> torch.memory_format:
    is_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


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
        h = self.conv1(activated(self.norm1, x))
        if temb is not None:
            h = h + self.temb_proj(nonlinearity(temb))[:, :, None, None]  # (b, c) -> (b, c, 1, 1)
        h = self.conv2(self.dropout(activated(self.norm2, h)))
        if self.in_channels != self.out_channels:
            x = self.conv_shortcut(x) if self.use_conv_shortcut else self.nin_shortcut(x)
        return added(x, h)


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
        return added(x, self.proj_out(rearrange(attended, "b 1 (h w) c -> b c h w", h=x.shape[2])))


def get_timestep_embedding(timesteps: Tensor, embedding_dim: int) -> Tensor:
    """Sinusoidal embedding of timesteps (n,) -> float32 (n, embedding_dim): sines, cosines, a zero if odd."""
    half = embedding_dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(10000) / (half - 1) * steps)
    angles = timesteps.float()[:, None] * frequencies[None, :]  # (n, half)
    embedding = torch.cat((angles.sin(), angles.cos()), dim=1)
    return F.pad(embedding, (0, embedding_dim % 2))


class TimestepEmbedding(nn.Module):
    """Timesteps (n,) -> (n, 4 channels): the sinusoidal embedding through two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.dense = nn.ModuleList([nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)])

    def forward(self, t: Tensor) -> Tensor:
        first, second = self.dense
        embedding = get_timestep_embedding(t, self.channels).to(first.weight.dtype)
        return second(nonlinearity(first(embedding)))


class Middle(nn.Module):
    """The lowest level: block, attention, block. `in_channels` is the width of its input where that differs."""

    def __init__(
        self, channels: int, dropout: float, *, in_channels: int | None = None, temb_channels: int = 0
    ) -> None:
        super().__init__()
        options = {"out_channels": channels, "dropout": dropout, "temb_channels": temb_channels}
        self.block_1 = ResnetBlock(in_channels=in_channels or channels, **options)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(in_channels=channels, **options)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, temb)), temb)


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if asked for, then a change of resolution.

    in_widths: channels of each block's input. Registration order, and with it the order of optimizer states: all
    blocks, all attentions, the resampling, which whoever builds the level adds as `downsample` or `upsample`.
    """

    def __init__(
        self, in_widths: Sequence[int], out_channels: int, *, attention: bool, dropout: float, temb_channels: int = 0
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(in_channels=width, out_channels=out_channels, dropout=dropout, temb_channels=temb_channels)
            for width in in_widths
        )
        self.attn = nn.ModuleList(AttnBlock(out_channels) for _ in (in_widths if attention else ()))

    def step(self, index: int, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """Block `index` and its attention: (b, in_widths[index], h, w) -> (b, out_channels, h, w)."""
        x = self.block[index](x, temb)
        return self.attn[index](x) if self.attn else x

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        for index in range(len(self.block)):
            x = self.step(index, x, temb)
        for resample in ("downsample", "upsample"):
            if hasattr(self, resample):
                x = getattr(self, resample)(x)
        return x


def attention_levels(resolution: int, levels: int, attn_resolutions: Sequence[int]) -> list[bool]:
    """Which levels have attention: those whose nominal resolution, `resolution` / 2^i, is listed."""
    return [resolution // 2**i in attn_resolutions for i in range(levels)]


def down_levels(
    widths: Sequence[int],
    depth: int,
    *,
    attention: Sequence[bool],
    dropout: float,
    resamp_with_conv: bool,
    temb_channels: int = 0,
) -> nn.ModuleList:
    """Levels of `depth` blocks from full resolution down; widths: of the input and of each level."""
    levels = nn.ModuleList()
    for i, channels in enumerate(widths[1:]):
        in_widths = [widths[i], *[channels] * depth][:depth]
        level = Level(in_widths, channels, attention=attention[i], dropout=dropout, temb_channels=temb_channels)
        if i < len(widths) - 2:
            level.downsample = Downsample(channels, resamp_with_conv)
        levels.append(level)
    return levels


def up_levels(
    widths: Sequence[int],
    depth: int,
    *,
    attention: Sequence[bool],
    dropout: float,
    resamp_with_conv: bool,
    temb_channels: int = 0,
    skips: bool = False,
) -> nn.ModuleList:
    """The way back up through the `widths` of `down_levels`, one block more per level, to be run from the last to the
    first. With skips the input of every block is followed on channels by what the way down had at that place.
    """
    levels = nn.ModuleList()
    for i, channels in enumerate(widths[1:]):
        in_widths = [widths[min(i + 2, len(widths) - 1)], *[channels] * depth]
        if skips:
            skip_widths = [*[channels] * depth, widths[i]]
            in_widths = [width + skip for width, skip in zip(in_widths, skip_widths, strict=True)]
        level = Level(in_widths, channels, attention=attention[i], dropout=dropout, temb_channels=temb_channels)
        if i > 0:
            level.upsample = Upsample(channels, resamp_with_conv)
        levels.append(level)
    return levels
