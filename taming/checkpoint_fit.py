"""Weights into models: what does not fit is reported by part, with the config keys that are probably wrong."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from taming.weight_facts import ATTENTION, NO_LOSS, model_facts

logger = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A file that is no checkpoint, is refused, or does not fit the model; the message is one line and names it."""


class IncompatibleKeys(NamedTuple):
    """Keys that a model has and its checkpoint lacks, and the other way round, like torch's own report."""

    missing_keys: list[str]
    unexpected_keys: list[str]


TOLERATED = re.compile(r"(^|\.)(loss\.|model_ema\.|colorize$|attn\.mask$)")
"""Keys that inference does without: the loss and its networks, running means of weights, a palette, causal masks."""

HINTS_SHOWN = 5


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    ignore_keys: Sequence[str] = (),
    source: str | os.PathLike = "checkpoint",
    strict: bool = False,
) -> IncompatibleKeys:
    """Load what fits by name; keys that begin with one of `ignore_keys` are left out.

    Missing and unexpected keys are logged in one line. `source` names the checkpoint in messages. Raises
    CheckpointError for weights of another shape, if no name fits at all, and with `strict` for keys that matter: a
    missing one, or one too many of a part that the model has, unless inference does without it.
    """
    weights = {key: value for key, value in state_dict.items() if not key.startswith(tuple(ignore_keys))}
    own = module.state_dict()
    if problem := _misfit(type(module).__name__, own, weights):
        raise CheckpointError(f"{source}: {problem}")
    result = IncompatibleKeys(*module.load_state_dict(weights, strict=False))
    if not any(result):
        return result
    hint = config_hint(own, state_dict)
    fatal = _fatal_keys(module, result)
    if strict and any(fatal):
        raise CheckpointError(f"{source}: does not fit the config, {_listed(fatal)}{hint}")
    report = logger.warning if any(fatal) else logger.info
    report("%s: missing %s; unexpected %s%s", source, *map(summary, result), hint)
    return result


def explain_misfit(module: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """Why `module.load_state_dict(weights)` fails, in one line; None if nothing is known to be wrong."""
    own = module.state_dict()
    if problem := _misfit(type(module).__name__, own, weights):
        return problem
    taken = ("attn.mask", "colorize")  # by modules that do not have them
    unexpected = [key for key in weights if key not in own and not key.endswith(taken)]
    keys = IncompatibleKeys([key for key in own if key not in weights], unexpected)
    return f"does not fit the config, {_listed(keys)}{config_hint(own, weights)}" if any(keys) else None


def summary(keys: Iterable[str]) -> str:
    """State-dict keys counted by the part of the model that they belong to: `loss.discriminator (12), colorize`."""
    counts = Counter(".".join(key.split(".")[:2]) for key in keys)
    parts = [part if count == 1 else f"{part} ({count})" for part, count in counts.most_common()]
    return ", ".join(parts[:6] + [f"and {len(parts) - 6} more parts"] * (len(parts) > 6)) or "none"


def _listed(keys: IncompatibleKeys) -> str:
    problems = zip(("missing", "unexpected"), keys, strict=True)
    return "; ".join(f"{problem} {summary(found)}" for problem, found in problems if found)


def _fatal_keys(module: nn.Module, result: IncompatibleKeys) -> IncompatibleKeys:
    parts = {name for name, _ in module.named_children()}
    return IncompatibleKeys(
        [key for key in result.missing_keys if not TOLERATED.search(key)],
        [key for key in result.unexpected_keys if key.split(".")[0] in parts and not TOLERATED.search(key)],
    )


def _misfit(name: str, own: Mapping[str, Tensor], weights: Mapping[str, Any]) -> str | None:
    """What keeps `weights` from being loaded at all: nothing fits by name, or something has another shape."""
    common = [key for key in own if isinstance(weights.get(key), Tensor)]
    if own and not common:
        return f"holds nothing for {name}, but {summary(weights)}; {_other_place(own, weights)}"
    misfits = [key for key in common if own[key].shape != weights[key].shape]
    if not misfits:
        return None
    key = misfits[0]
    more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
    shapes = f"{tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model"
    return f"{key} is {shapes}{more}{config_hint(own, weights)}"


def _other_place(own: Mapping[str, Tensor], weights: Mapping[str, Any]) -> str:
    """Where weights that fit nowhere by their full names belong."""
    if part := _part_that_holds(own, weights):
        return f"its part {part} fits: take it out with scripts/extract_submodel.py IN OUT {part}"
    if part := _part_that_holds(weights, own):
        return f"it fits the part {part} of the model only"
    return "it is of another kind of model, or of another program"


def _part_that_holds(few: Mapping[str, Any], many: Mapping[str, Any]) -> str | None:
    """What to put before the names in `few` so that most of them are in `many`."""
    first = next(iter(few), None)
    parts = [key.removesuffix(f".{first}") for key in many if key.endswith(f".{first}")]
    return next((part for part in parts if 2 * sum(f"{part}.{key}" in many for key in few) > len(few)), None)


def config_hint(own: Mapping[str, Tensor], weights: Mapping[str, Any]) -> str:
    """The end of a message: the config keys by which a model's weights and those of a file differ."""
    here, there = model_facts(own), model_facts(weights)
    hints = list(_differences(here, there))
    if not hints:
        return ""
    more = f" and {len(hints) - HINTS_SHOWN} more" if len(hints) > HINTS_SHOWN else ""
    return f"; in the config check {', '.join(hints[:HINTS_SHOWN])}{more}"


def _differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    for key in here:
        ours, theirs = here[key], there.get(key)
        if theirs is None or ours == theirs or (key.endswith("lossconfig.target") and ours == NO_LOSS):
            continue
        if key.endswith(ATTENTION):
            levels = key.removesuffix("attn_resolutions") + "ch_mult"
            shared = range(min(len(here[levels]), len(there[levels])))
            if [i for i in ours if i in shared] != [i for i in theirs if i in shared]:
                yield _attention_hint(key, theirs)
        else:
            yield f"{key} (the file has {_shown(theirs)})"


def _attention_hint(key: str, levels: Sequence[int]) -> str:
    places = ", ".join(f"resolution / {2**level}" for level in levels) or "no level"
    return f"{key} or resolution (the file has attention at {places})"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value == NO_LOSS:
        return "no weights of a loss"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
