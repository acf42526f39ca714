"""How large a model in training is: parameters by part, and the memory that does not depend on the batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

STATE_TENSORS = {"Adam": 2, "AdamW": 2, "Adamax": 2, "NAdam": 2, "RAdam": 2, "Adagrad": 1, "RMSprop": 1, "Lion": 1}
"""Tensors of a parameter's size that an optimizer keeps for it."""


@dataclass(frozen=True)
class Part:
    """A part of a model, `encoder` or `loss.discriminator`, and the numbers of its parameters with and without
    gradients."""

    name: str
    trained: int
    frozen: int


def parts_of(module: nn.Module, prefix: str = "") -> Iterator[Part]:
    """The module's children that have parameters; a child with both kinds is told by its own children."""
    for name, child in module.named_children():
        counts = {flag: count(p for p in child.parameters() if p.requires_grad == flag) for flag in (True, False)}
        if all(counts.values()) and not prefix and next(child.children(), None) is not None:
            yield from parts_of(child, f"{name}.")
        elif any(counts.values()):
            yield Part(f"{prefix}{name}", counts[True], counts[False])


def count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Memory:
    """Bytes of one process that training needs besides its batches; None if an optimizer of an unknown kind is used."""

    weights: int
    gradients: int
    optimizer_state: int | None
    average: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + (self.optimizer_state or 0) + self.average


def memory_of(module: nn.Module, optimizers: Sequence[Optimizer], *, average: int, in_turn: bool) -> Memory:
    """Weights and buffers, gradients, the optimizers' state once they have made a step, and an `average` of so much.

    in_turn: one optimizer's gradients are freed before those of the next are computed.
    """
    trained = [bytes_of(parameters_of(optimizer)) for optimizer in optimizers]
    states = [state_bytes(optimizer) for optimizer in optimizers]
    return Memory(
        weights=bytes_of([*module.parameters(), *module.buffers()]),
        gradients=max(trained, default=0) if in_turn else sum(trained),
        optimizer_state=None if None in states else sum(states),
        average=average,
    )


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def state_bytes(optimizer: Optimizer) -> int | None:
    """What the optimizer keeps, or will keep; None if that is not known before its first step."""
    if optimizer.state:
        kept = [value for state in optimizer.state.values() for value in state.values()]
        return bytes_of(value for value in kept if isinstance(value, Tensor))
    kind = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.SGD):
        tensors = int(any(group["momentum"] for group in optimizer.param_groups))
    elif kind in STATE_TENSORS:
        tensors = STATE_TENSORS[kind] + int(any(group.get("amsgrad", False) for group in optimizer.param_groups))
    else:
        return None
    return tensors * bytes_of(parameters_of(optimizer))


def in_bytes(size: float) -> str:
    """`size` bytes in the unit that suits it: 512 B, 1.5 MB, 12 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"


def in_millions(number: int) -> str:
    """A number of parameters: 4.1 K, 29.3 M, 1.42 B."""
    for unit, size, digits in (("B", 1e9, 2), ("M", 1e6, 1), ("K", 1e3, 1)):
        if number >= size:
            return f"{number / size:.{digits}f} {unit}"
    return str(number)
