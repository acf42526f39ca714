"""The patch discriminator (Isola et al. 2017, section 3.2.2)."""

from torch import Tensor, nn

from taming.modules.util import ActNorm


def weights_init(m: nn.Module) -> None:
    """Initialise convolutions from N(0, 0.02) and batch norms from N(1, 0.02); for `Module.apply`."""
    name = type(m).__name__
    if "Conv" in name:
        nn.init.normal_(m.weight, 0.0, 0.02)
    elif "BatchNorm" in name:
        nn.init.normal_(m.weight, 1.0, 0.02)
        nn.init.zeros_(m.bias)


class NLayerDiscriminator(nn.Module):
    """Image (b, input_nc, h, w) -> one logit per patch (b, 1, h', w'); n_layers=3 sees 70 x 70 pixels."""

    def __init__(self, input_nc: int = 3, ndf: int = 64, n_layers: int = 3, use_actnorm: bool = False) -> None:
        super().__init__()
        norm = ActNorm if use_actnorm else nn.BatchNorm2d
        widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
        layers = [nn.Conv2d(input_nc, ndf, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for n in range(1, n_layers + 1):
            stride = 2 if n < n_layers else 1
            bias = use_actnorm  # batch norm has its own
            layers += [
                nn.Conv2d(widths[n - 1], widths[n], kernel_size=4, stride=stride, padding=1, bias=bias),
                norm(widths[n]),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, kernel_size=4, padding=1))
        self.main = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        return self.main(input)
