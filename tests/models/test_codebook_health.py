"""Codebook usage and perplexity: exact over an epoch, logged for training and validation, warned about once."""

import logging

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_configs import ddconfig
from torch.utils.data import DataLoader

from taming.evaluation import measures
from taming.models.vqgan import EMAVQ
from taming.modules.vqvae.codebook import perplexity_of_counts, usage_of_counts

LOSS = {
    "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    "params": {"disc_start": 99, "disc_num_layers": 1, "disc_ndf": 4, "perceptual_weight": 0.0},
}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_usage_and_perplexity(counts):
    used = sum(count > 0 for count in counts)
    assert usage_of_counts(torch.tensor(counts)) == used / len(counts)
    assert 1 - 1e-9 <= perplexity_of_counts(torch.tensor(counts)) <= used + 1e-9


def test_equal_counts_have_their_number_as_perplexity():
    assert perplexity_of_counts(torch.tensor([7, 7, 7, 0, 0])) == pytest.approx(3)


class Codes(pl.Callback):
    """All codes that the quantizer gives in training and in validation."""

    def __init__(self):
        self.train, self.val = [], []

    def on_fit_start(self, trainer, pl_module):
        pl_module.quantize.register_forward_hook(self._note)

    def _note(self, module, args, output):
        if module.training and module.embedding.update:
            self.train.append(output[2][2])
        if not module.training:
            self.val.append(output[2][2])


def loader(count):
    images = torch.rand(count, 2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader([{"image": batch} for batch in images], batch_size=None)


def fit(tmp_path, *callbacks, n_embed=16, **params):
    torch.manual_seed(0)
    model = EMAVQ(ddconfig(), LOSS, n_embed=n_embed, embed_dim=4, **params)
    model.learning_rate = 1e-3
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=1, callbacks=list(callbacks), **options)
    trainer.fit(model, loader(3), loader(2))
    return model, trainer.callback_metrics


@pytest.mark.parametrize("shared_forward", [True, False])
def test_an_epochs_codes_are_counted_once_each(tmp_path, shared_forward):
    codes = Codes()
    _, metrics = fit(tmp_path, codes, shared_forward=shared_forward)
    sanity = 2  # batches of the sanity check, which is not logged
    for split, seen, batches in (("train", codes.train, 3), ("val", codes.val[sanity:], 2)):
        tokens = torch.cat(seen)
        assert len(tokens) == batches * 2 * 64
        assert metrics[f"{split}/codebook_usage"].item() == pytest.approx(measures.codebook_usage(tokens, 16))
        assert metrics[f"{split}/codebook_perplexity"].item() == pytest.approx(measures.perplexity(tokens), rel=1e-5)


def test_a_collapsed_codebook_is_warned_about_once_with_the_remedy(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="taming.models.codebook_health"):
        _, metrics = fit(tmp_path)
    assert metrics["train/codebook_usage"] < 0.3
    (record,) = caplog.records
    assert "of the 16 codes were used in this" in record.getMessage()
    assert "kmeans_init: true" in record.getMessage()


def test_few_tokens_are_no_reason_to_warn(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="taming.models.codebook_health"):
        fit(tmp_path, n_embed=128)
    assert not caplog.records


def test_a_healthy_codebook_is_not_warned_about(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="taming.models.codebook_health"):
        _, metrics = fit(tmp_path, kmeans_init=True)
    assert metrics["train/codebook_usage"] > 0.9
    assert not caplog.records
