"""Several linear layers of one input as one product."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def fuse(linears: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Weight (n, d) and bias (n,) that give the outputs of all `linears` side by side.

    The layers' own parameters become views of them: names and values stay, no memory is added, and what changes
    parameters in place (an optimizer, load_state_dict) changes both. Moving the layers to another device ends that.
    """
    return tuple(_fuse([getattr(linear, name) for linear in linears]) for name in ("weight", "bias"))


def _fuse(parameters: Sequence[nn.Parameter]) -> Tensor:
    first = parameters[0]
    length = sum(len(parameter) for parameter in parameters)
    if _are_neighbours(parameters):
        return first.detach().as_strided((length, *first.shape[1:]), first.stride())
    fused = torch.cat(list(parameters))
    for parameter, view in zip(parameters, fused.split([len(parameter) for parameter in parameters]), strict=True):
        parameter.data = view
    return fused


def _are_neighbours(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether they follow each other without a gap in one piece of memory."""
    storages = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    offset = parameters[0].storage_offset()
    for parameter in parameters:
        if len(storages) > 1 or not parameter.is_contiguous() or parameter.storage_offset() != offset:
            return False
        offset += parameter.numel()
    return True
