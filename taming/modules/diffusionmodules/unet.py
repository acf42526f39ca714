"""U-Nets with and without a latent input (Ho et al. 2020; Esser et al. 2018), and two small decoders.

No published model uses them; other people's configs may. b batch, c channels, h x w space.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from taming.modules.diffusionmodules.blocks import (
    Middle,
    Normalize,
    ResnetBlock,
    TimestepEmbedding,
    Upsample,
    attention_levels,
    down_levels,
    nonlinearity,
    up_levels,
)


class UNet(nn.Module):
    """Down and up again, where every block on the way up also sees what the way down had at its place.

    With z_channels a latent (b, z_channels, h / f, w / f), f = 2^(levels - 1), enters at the lowest level. Every
    residual block has a projection of the timestep embedding, be there timesteps or not.

    It has no constructor: the check of configs would take its keywords for the only ones that VUNet's accepts.
    """

    def _build(
        self,
        *,
        ch: int,
        out_ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float,
        resamp_with_conv: bool,
        in_channels: int,
        resolution: int,
        use_timestep: bool,
        z_channels: int | None = None,
    ) -> None:
        self.ch = ch
        self.temb_ch = 4 * ch
        self.num_resolutions = len(ch_mult)
        self.num_res_blocks = num_res_blocks
        self.resolution = resolution
        self.in_channels = in_channels
        self.use_timestep = use_timestep
        widths = [ch, *(ch * multiplier for multiplier in ch_mult)]
        options = {
            "attention": attention_levels(resolution, len(ch_mult), attn_resolutions),
            "dropout": dropout,
            "resamp_with_conv": resamp_with_conv,
            "temb_channels": self.temb_ch,
        }
        if use_timestep:
            self.temb = TimestepEmbedding(ch)
        self.conv_in = nn.Conv2d(in_channels, ch, kernel_size=3, padding=1)
        self.down = down_levels(widths, num_res_blocks, **options)
        if z_channels is not None:
            self.z_in = nn.Conv2d(z_channels, widths[-1], kernel_size=1)
        inputs_of_middle = 1 if z_channels is None else 2
        self.mid = Middle(widths[-1], dropout, in_channels=inputs_of_middle * widths[-1], temb_channels=self.temb_ch)
        self.up = up_levels(widths, num_res_blocks, **options, skips=True)
        self.norm_out = Normalize(widths[1])
        self.conv_out = nn.Conv2d(widths[1], out_ch, kernel_size=3, padding=1)

    def _forward(self, x: Tensor, t: Tensor | None, z: Tensor | None = None) -> Tensor:
        self._check(x, t)
        temb = self.temb(t) if self.use_timestep else None
        skips = self._descend(x, temb)
        h = skips[-1]
        if z is not None:
            h = torch.cat((h, self.z_in(z)), dim=1)  # (b, c, h, w) -> (b, 2c, h, w)
        h = self.mid(h, temb)
        for level in reversed(self.up):
            for index in range(len(level.block)):
                h = level.step(index, torch.cat((h, skips.pop()), dim=1), temb)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(nonlinearity(self.norm_out(h)))

    def _descend(self, x: Tensor, temb: Tensor | None) -> list[Tensor]:
        """The features of the way down: after conv_in, each block and each downsampling."""
        skips = [self.conv_in(x)]
        for level in self.down:
            for index in range(len(level.block)):
                skips.append(level.step(index, skips[-1], temb))
            if hasattr(level, "downsample"):
                skips.append(level.downsample(skips[-1]))
        return skips

    def _check(self, x: Tensor, t: Tensor | None) -> None:
        factor = 2 ** (self.num_resolutions - 1)
        if x.shape[-2] % factor or x.shape[-1] % factor:
            raise ValueError(
                f"input of {x.shape[-2]} x {x.shape[-1]}: height and width must be multiples of {factor}, "
                f"by which this U-Net of {self.num_resolutions} levels divides them"
            )
        if self.use_timestep and t is None:
            raise ValueError("a U-Net with use_timestep=True needs the timesteps t")


class Model(UNet):
    """U-Net: (b, in_channels, h, w), with use_timestep also timesteps t (b,) -> (b, out_ch, h, w).

    Raises ValueError where t is missing, or h or w no multiple of 2^(levels - 1).
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
        use_timestep: bool = True,
    ) -> None:
        super().__init__()
        self._build(
            ch=ch,
            out_ch=out_ch,
            ch_mult=ch_mult,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            dropout=dropout,
            resamp_with_conv=resamp_with_conv,
            in_channels=in_channels,
            resolution=resolution,
            use_timestep=use_timestep,
        )

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self._forward(x, t)


class VUNet(UNet):
    """U-Net with a latent at its lowest level: x (b, c_channels, h, w), z (b, z_channels, h / f, w / f) with
    f = 2^(levels - 1) -> (b, out_ch, h, w). `in_channels` has no effect, as have unknown keywords. Raises as Model.
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
        c_channels: int,
        resolution: int,
        z_channels: int,
        use_timestep: bool = False,
        **ignored,
    ) -> None:
        super().__init__()
        self._build(
            ch=ch,
            out_ch=out_ch,
            ch_mult=ch_mult,
            num_res_blocks=num_res_blocks,
            attn_resolutions=attn_resolutions,
            dropout=dropout,
            resamp_with_conv=resamp_with_conv,
            in_channels=c_channels,
            resolution=resolution,
            use_timestep=use_timestep,
            z_channels=z_channels,
        )

    def forward(self, x: Tensor, z: Tensor, t: Tensor | None = None) -> Tensor:
        return self._forward(x, t, z)


class SimpleDecoder(nn.Module):
    """(b, in_channels, h, w) -> (b, out_channels, 2h, 2w) by three residual blocks; further arguments are ignored."""

    def __init__(self, in_channels: int, out_channels: int, *args, **kwargs) -> None:
        super().__init__()
        widths = [in_channels, 2 * in_channels, 4 * in_channels, 2 * in_channels]
        blocks = [
            ResnetBlock(in_channels=before, out_channels=after, dropout=0.0, temb_channels=0)
            for before, after in pairwise(widths)
        ]
        self.model = nn.ModuleList(
            [
                nn.Conv2d(in_channels, in_channels, kernel_size=1),
                *blocks,
                nn.Conv2d(2 * in_channels, in_channels, kernel_size=1),
                Upsample(in_channels, with_conv=True),
            ]
        )
        self.norm_out = Normalize(in_channels)
        self.conv_out = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.model:
            x = layer(x)
        return self.conv_out(nonlinearity(self.norm_out(x)))


class UpsampleDecoder(nn.Module):
    """(b, in_channels, h, w) -> (b, out_channels, f h, f w), f = 2^(levels - 1), without attention.

    ch_mult is in the order of execution, from the lowest resolution up; `resolution` has no effect.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ch: int,
        num_res_blocks: int,
        resolution: int,
        ch_mult: Sequence[int] = (2, 2),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.temb_ch = 0
        self.num_resolutions = len(ch_mult)
        self.num_res_blocks = num_res_blocks
        widths = [in_channels, *(ch * multiplier for multiplier in ch_mult)]
        self.res_blocks = nn.ModuleList(
            nn.ModuleList(
                ResnetBlock(in_channels=width, out_channels=after, dropout=dropout, temb_channels=0)
                for width in [before, *[after] * num_res_blocks]
            )
            for before, after in pairwise(widths)
        )
        self.upsample_blocks = nn.ModuleList(Upsample(width, with_conv=True) for width in widths[1:-1])
        self.norm_out = Normalize(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for index, blocks in enumerate(self.res_blocks):
            for block in blocks:
                x = block(x)
            if index < len(self.upsample_blocks):
                x = self.upsample_blocks[index](x)
        return self.conv_out(nonlinearity(self.norm_out(x)))
