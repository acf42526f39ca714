"""Training stops at a loss that is not finite, names what went wrong, and keeps the last good state."""

import pytest
import torch
from tiny_configs import ddconfig
from tiny_runs import fit, last_checkpoint, run_folders, write_config
from torch import nn

from taming.models.finite import NonFiniteError, check_finite, first_non_finite
from taming.models.vqgan import VQModel

NAN, INF = float("nan"), float("inf")


def terms(**values):
    return {f"train/{name}": torch.tensor(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"total_loss": NAN, "quant_loss": NAN, "rec_loss": NAN}, "train/quant_loss"),
        ({"total_loss": NAN, "nll_loss": INF, "p_loss": INF, "quant_loss": 1.0}, "train/p_loss"),
        ({"total_loss": NAN, "g_loss": NAN, "d_weight": 1.0, "rec_loss": 1.0}, "train/total_loss"),
        ({"disc_loss": NAN, "logits_real": 0.0, "logits_fake": -INF}, "train/logits_fake"),
    ],
)
def test_the_term_that_spoils_the_others_is_named(values, name):
    assert first_non_finite(terms(**values)) == name


def test_finite_terms_pass():
    check_finite(nn.Linear(1, 1), terms(total_loss=1.0, p_loss=0.0), step=3, inputs={"image": torch.tensor(NAN)})


@pytest.mark.parametrize(
    ("spoil", "hint", "weights_are_finite"),
    [
        ("input", "the batch's 'image' holds values that are not finite", True),
        ("weight", "the step before has spoilt the weights", False),
        (None, "weights and inputs are finite", True),
    ],
)
def test_the_message_says_whose_fault_it_is(spoil, hint, weights_are_finite):
    module, image = nn.Linear(1, 1), torch.zeros(2)
    if spoil == "input":
        image[1] = NAN
    if spoil == "weight":
        module.weight.data.fill_(INF)
    with pytest.raises(NonFiniteError) as error:
        check_finite(module, terms(rec_loss=1.0, g_loss=-INF), step=7, inputs={"image": image})
    assert str(error.value).startswith("training stopped at step 7: the loss term train/g_loss is -inf; ")
    assert hint in str(error.value) and "\n" not in str(error.value)
    assert error.value.weights_are_finite == weights_are_finite


class TinyVQModel(VQModel):
    """A VQGAN for the tiny data of `tiny_runs`; its codebook loss is NaN from step `break_at` on."""

    def __init__(self, break_at=None, spoil_at=None):
        loss = {
            "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
            "params": {"disc_start": 0, "disc_num_layers": 1, "disc_ndf": 4, "perceptual_weight": 0.0},
        }
        super().__init__(ddconfig(resolution=8), loss, n_embed=8, embed_dim=4)
        self.break_at, self.spoil_at = break_at, spoil_at

    def _reconstruct(self, batch, split):
        x, reconstructions, codebook_loss = super()._reconstruct(batch, split)
        factor = NAN if split == "train" and self.global_step == self.break_at else 1.0
        return x, reconstructions, codebook_loss * factor

    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == self.spoil_at:
            self.decoder.conv_out.weight.data[0] = NAN


def broken_run(tmp_path, monkeypatch, **params):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path)
    options = [f"model.params.{name}={value}" for name, value in params.items()]
    with pytest.raises(NonFiniteError) as error:
        fit(config, f"model.target={__name__}.TinyVQModel", *options, "--max_epochs", "3")
    return error.value


def test_training_stops_with_the_last_good_state(tmp_path, monkeypatch):
    """Six batches are done when the seventh breaks: its weights are saved, those of batch six."""
    error = broken_run(tmp_path, monkeypatch, break_at=6)
    assert "step 6: the loss term train/quant_loss is nan" in str(error)
    checkpoint = last_checkpoint()
    assert checkpoint["global_step"] == 6
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values() if value.is_floating_point())


def test_spoilt_weights_do_not_overwrite_good_ones(tmp_path, monkeypatch):
    """The second epoch's weights go bad in its third batch: last.ckpt stays that of the first epoch."""
    error = broken_run(tmp_path, monkeypatch, spoil_at=6)
    assert not error.weights_are_finite
    assert last_checkpoint()["global_step"] == 4
    assert len(run_folders()) == 1
