"""What Lightning has added up for the means of an epoch, which its checkpoints leave out."""

from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection
from torch import Tensor

Sums = dict[str, tuple[Tensor, Tensor | None]]
"""Name -> (sum, or greatest or least value; number of examples in a sum for a mean)."""


def sums_of(results: _ResultCollection) -> Sums:
    """The sums so far of what `self.log(..., on_epoch=True)` was given in this epoch."""
    return {
        key: (metric.value, getattr(metric, "cumulated_batch_size", None))
        for key, metric in results.items()
        if metric.is_tensor and metric.meta.on_epoch
    }


def add_sums(results: _ResultCollection, earlier: Sums) -> Sums:
    """Let the sums go on from `earlier` ones; returns those of what has not been logged yet."""
    for key in earlier.keys() & results.keys():
        metric, (value, number) = results[key], earlier[key]
        value = value.to(metric.value.device)
        if metric.meta.is_mean_reduction:
            metric.cumulated_batch_size = number.to(metric.value.device) + metric.cumulated_batch_size
        combines = metric.meta.is_max_reduction or metric.meta.is_min_reduction
        metric.value = metric.meta.reduce_fx(value, metric.value) if combines else value + metric.value
    return {key: sums for key, sums in earlier.items() if key not in results}
