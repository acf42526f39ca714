"""Which classes a job samples: lists such as "3,5-9", and what a model knows."""

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from taming.models.cond_transformer import Net2NetTransformer
from taming.modules.util import Labelator

ALL_CLASSES = ("imagenet", "all")


def class_labels(model: Net2NetTransformer, classes: str | Sequence[int] | None = None) -> tuple[int | None, ...]:
    """The labels that `classes` means for this model: (None,) if it is unconditional, all it knows for None.

    A string is a list such as "3,5-9,"; "imagenet" and "all" are all classes. Raises ValueError for labels that the
    model does not know, and for a model whose conditioning is neither a class nor a start token.
    """
    if model.be_unconditional:
        if classes is not None and classes not in ALL_CLASSES:
            raise ValueError(f"classes {classes!r}: this model is unconditional, leave them out")
        return (None,)
    if not isinstance(model.cond_stage_model, Labelator):
        raise ValueError(
            f"this model is conditioned on {model.cond_stage_key!r}, which is neither a class nor nothing; "
            "sample it with scripts/make_samples.py"
        )
    return parse_classes(classes, model.cond_stage_model.n_classes)


def check_classes(config: DictConfig, classes: str | Sequence[int] | None) -> None:
    """Raises ValueError for labels out of range as far as the config of a model tells, before the model is loaded."""
    stage = OmegaConf.select(config, "model.params.cond_stage_config")  # may be a marker such as __is_first_stage__
    n_classes = OmegaConf.select(stage, "params.n_classes") if isinstance(stage, DictConfig) else None
    if isinstance(n_classes, int) and not OmegaConf.select(config, "model.params.unconditional"):
        parse_classes(classes, n_classes)


def parse_classes(classes: str | Sequence[int] | None, n_classes: int) -> tuple[int, ...]:
    """Labels in the order given, each once; see `class_labels`."""
    if classes is None or classes in ALL_CLASSES:
        return tuple(range(n_classes))
    items = classes.removesuffix(",").split(",") if isinstance(classes, str) else classes
    labels = [label for item in items for label in _parse_range(str(item).strip(), n_classes)]
    if not labels:
        raise ValueError("classes: the list is empty")
    return tuple(dict.fromkeys(labels))


def _parse_range(item: str, n_classes: int) -> range:
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", item)
    if match is None:
        raise ValueError(
            f"classes: {item!r} is neither a label from 0 to {n_classes - 1}, nor a range such as 5-9, nor all"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < n_classes:
        raise ValueError(f"classes: {item} is out of range, the labels of this model go from 0 to {n_classes - 1}")
    return range(first, last + 1)
