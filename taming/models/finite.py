"""Training stops at the first loss that is not a finite number, before the step that would spoil the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

CAUSES_FIRST = ("quant_loss", "p_loss", "rec_loss", "nll_loss", "logits_real", "logits_fake", "disc_loss")
"""Loss terms in the order in which one spoils the next; others follow as they come."""


class NonFiniteError(ValueError):
    """A loss or an input is NaN or infinite. weights_are_finite: whether the weights are still good."""

    def __init__(self, message: str, *, weights_are_finite: bool) -> None:
        super().__init__(message)
        self.weights_are_finite = weights_are_finite


def check_finite(module: nn.Module, terms: Mapping[str, Tensor], *, step: int, inputs: Mapping[str, Tensor]) -> None:
    """Raise NonFiniteError that names the first of the loss `terms` that is not finite, or the input that has it.

    `module` is the model whose weights are looked at then; `terms` are scalars by name, `inputs` the batch's tensors.
    """
    if torch.stack([value.detach().float() for value in terms.values()]).isfinite().all():
        return
    name = first_non_finite(terms)
    bad_input = next((key for key, x in inputs.items() if not x.isfinite().all()), None)
    weights_are_finite = all(_own_part(parameter).isfinite().all() for parameter in module.parameters())
    if bad_input is not None:
        cause = f"the batch's '{bad_input}' holds values that are not finite; scan the data set for them"
    elif not weights_are_finite:
        cause = "the step before has spoilt the weights; lower the learning rate or clip gradients"
    else:
        cause = "weights and inputs are finite; lower the learning rate, clip gradients, or train with --precision 32"
    message = f"training stopped at step {step}: the loss term {name} is {terms[name].item():g}; {cause}"
    raise NonFiniteError(message, weights_are_finite=weights_are_finite)


def _own_part(parameter: Tensor) -> Tensor:
    """Of a sharded parameter what this process has: other processes may have met nothing and would not answer."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def first_non_finite(terms: Mapping[str, Tensor]) -> str:
    """The name of the term that went wrong first, judged by what is computed from what."""
    bad = [name for name, value in terms.items() if not value.isfinite()]
    rank = {name: index for index, name in enumerate(CAUSES_FIRST)}
    return min(bad, key=lambda name: rank.get(name.rpartition("/")[2], len(rank)))
