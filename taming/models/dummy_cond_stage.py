"""Conditioning that is a sequence of tokens already."""

from torch import Tensor


class DummyCondStage:
    """Gives back what it gets: the datasets have built the tokens. `conditional_key` is the batch's key for them.

    Not a Module, has no weights, and `train` is None.
    """

    train = None

    def __init__(self, conditional_key: str) -> None:
        self.conditional_key = conditional_key

    def eval(self) -> "DummyCondStage":
        return self

    @staticmethod
    def encode(c: Tensor) -> tuple[Tensor, None, tuple[None, None, Tensor]]:
        """Tokens in the (quant, loss, info) form of a quantizer."""
        return c, None, (None, None, c)

    @staticmethod
    def decode(c: Tensor) -> Tensor:
        return c

    @staticmethod
    def to_rgb(c: Tensor) -> Tensor:
        return c
