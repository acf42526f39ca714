"""Small modules that several models use."""

import torch
from torch import Tensor, nn

from taming.modules.processes import all_reduce_sum, count_processes


def count_params(model: nn.Module) -> int:
    """Number of parameter elements."""
    return sum(parameter.numel() for parameter in model.parameters())


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, wider types as they are: distances, running means and adaptive weights need it."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class AbstractEncoder(nn.Module):
    """A conditioning stage: something with `encode`."""

    def encode(self, *args, **kwargs):
        raise NotImplementedError


class Labelator(AbstractEncoder):
    """Class labels as a conditioning sequence of one token."""

    def __init__(self, n_classes: int, quantize_interface: bool = True) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.quantize_interface = quantize_interface

    def encode(self, c: Tensor):
        """Labels (b,) -> tokens (b, 1), in the (quant, loss, info) form of a quantizer unless switched off."""
        c = c[:, None]
        return (c, None, [None, None, c.long()]) if self.quantize_interface else c


class SOSProvider(AbstractEncoder):
    """The start token of unconditional models as a conditioning sequence of one token."""

    def __init__(self, sos_token: int, quantize_interface: bool = True) -> None:
        super().__init__()
        self.sos_token = sos_token
        self.quantize_interface = quantize_interface

    def encode(self, x: Tensor):
        """Anything with a batch axis (b, ...) -> start tokens int64 (b, 1), on its device."""
        c = torch.full((x.shape[0], 1), self.sos_token, dtype=torch.int64, device=x.device)
        return (c, None, [None, None, c]) if self.quantize_interface else c


class ActNorm(nn.Module):
    """Per-channel affine map y = scale * (x + loc), set by its first training batch to zero mean and unit variance.

    Kingma & Dhariwal 2018, section 3.1. Processes that train together take the first batches of all of them: with one
    map each, as published, they would train different networks for ever, since only gradients are averaged.
    """

    def __init__(
        self, num_features: int, logdet: bool = False, affine: bool = True, allow_reverse_init: bool = False
    ) -> None:
        super().__init__()
        assert affine, "ActNorm is an affine map"
        self.loc = nn.Parameter(torch.zeros(1, num_features, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, num_features, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))
        self.logdet = logdet
        self.allow_reverse_init = allow_reverse_init

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the map from x (b, c, h, w) so that its image has zero mean and unit variance."""
        std, mean = std_mean_of_all(x)
        self.loc.copy_(-mean)
        self.scale.copy_(1 / (std + 1e-6))
        self.initialized.fill_(1)

    def forward(self, input: Tensor, reverse: bool = False):
        """(b, c, h, w) or (b, c) -> the same shape; with logdet also the log-determinant (b,)."""
        if reverse:
            return self.reverse(input)
        x = input[:, :, None, None] if input.ndim == 2 else input
        if self.training and not self.initialized:
            self.initialize(x)
        y = (self.scale * (x + self.loc)).reshape(input.shape)
        if not self.logdet:
            return y
        area = x.shape[2] * x.shape[3]
        return y, (area * self.scale.abs().log().sum()).expand(x.shape[0])

    def reverse(self, output: Tensor) -> Tensor:
        """The inverse map."""
        y = output[:, :, None, None] if output.ndim == 2 else output
        if self.training and not self.initialized:
            if not self.allow_reverse_init:
                raise RuntimeError(
                    "ActNorm: reverse before the first forward; pass allow_reverse_init=True to allow it"
                )
            self.initialize(y)
        return (y / self.scale - self.loc).reshape(output.shape)


def std_mean_of_all(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased standard deviation and mean (1, c, 1, 1) per channel of the x (b, c, h, w) of all processes."""
    std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    if count_processes() == 1:
        return std, mean
    n = x.new_tensor(x.numel() / x.shape[1])
    total = all_reduce_sum(n.clone())
    mean_of_all = all_reduce_sum(n * mean) / total
    squares = all_reduce_sum((n - 1) * std.square() + n * (mean - mean_of_all).square())
    return (squares / (total - 1)).sqrt(), mean_of_all
