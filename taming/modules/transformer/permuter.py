"""Orders in which the transformer reads the latent grid."""

from torch import Tensor, nn


class AbstractPermuter(nn.Module):
    """Reorders the positions of x (b, h*w, ...); `reverse` restores the row-major order."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        raise NotImplementedError


class Identity(AbstractPermuter):
    """Row-major order, as it is."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor, reverse: bool = False) -> Tensor:
        return x
