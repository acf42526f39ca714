"""Which codes of a first stage are in use: exact counts over an epoch, over all processes, logged and judged."""

import logging
from typing import Any

import torch
from torch import Tensor

from taming.modules.processes import all_reduce_sum
from taming.modules.vqvae.codebook import perplexity_of_counts, usage_of_counts

logger = logging.getLogger(__name__)

ENOUGH_TOKENS = 8
"""Tokens per codebook entry from which on an unused entry says something."""

REMEDY = (
    "start the codebook on a k-means and revive unused codes (taming.models.vqgan.EMAVQ with kmeans_init: true and "
    "revive_threshold: 0.5), take another quantizer (configs/quantizers), or a smaller n_embed"
)


class CodebookHealth:
    """For LightningModules with a `quantize`.

    Logs `<split>/codebook_usage`, the share of the entries that the epoch's tokens name, and
    `<split>/codebook_perplexity`, the number of equally frequent entries with the same entropy. A usage below
    `usage_threshold` is warned about, once until it has recovered.
    """

    usage_threshold: float = 0.3
    _warned: bool = False

    def count_codes(self, split: str, indices: Tensor) -> None:
        """Add the codes of one batch, any shape, to those of the epoch."""
        counts = self._code_counts().get(split)
        if counts is None:
            counts = torch.zeros(self.quantize.re_embed, dtype=torch.int64)
        flat = indices.detach().reshape(-1)
        self._code_counts()[split] = counts.to(flat.device).index_add(0, flat, torch.ones_like(flat))

    def log_codebook_health(self, split: str) -> None:
        """Log and judge the counts of an epoch, and begin anew; all processes must call it."""
        counts = self._code_counts().pop(split, None)
        if counts is None or self.trainer.sanity_checking:
            return
        counts = all_reduce_sum(counts)
        usage = usage_of_counts(counts)
        self.log(f"{split}/codebook_usage", usage, prog_bar=split == "val")
        self.log(f"{split}/codebook_perplexity", perplexity_of_counts(counts))
        self._judge(split, usage, tokens=int(counts.sum()))

    def _judge(self, split: str, usage: float, *, tokens: int) -> None:
        bad = usage < self.usage_threshold and tokens >= ENOUGH_TOKENS * self.quantize.re_embed
        if bad and not self._warned and self.trainer.is_global_zero:
            logger.warning(
                "only %.1f %% of the %d codes were used in this %s epoch: %s",
                *(100 * usage, self.quantize.re_embed, split, REMEDY),
            )
        self._warned = bad

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counts, so that a run that resumes within an epoch goes on with them."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["code_counts"] = dict(self._code_counts())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._code_counts().update(checkpoint.get("code_counts", {}))

    def _code_counts(self) -> dict[str, Tensor]:
        return self.__dict__.setdefault("_counts_by_split", {})
