"""disc_start: auto, the discriminator's warm-up, and the bound of its weight."""

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_configs import ddconfig
from torch.utils.data import DataLoader

from taming.models.vqgan import VQModel
from taming.modules.losses.auto_start import NEVER, AutoStart
from taming.modules.losses.vqperceptual import VQLPIPSWithDiscriminator


def criterion(**options):
    return VQLPIPSWithDiscriminator(**{"disc_ndf": 4, "disc_num_layers": 1, "perceptual_weight": 0.0, **options})


def factors(loss, step):
    """What multiplies the adversarial terms of the autoencoder and of the discriminator at a step."""
    x = torch.rand(2, 3, 16, 16)
    weight = torch.rand(3, 3, 1, 1, requires_grad=True)
    _, log = loss(torch.zeros(()), x, torch.nn.functional.conv2d(x, weight), 0, step, last_layer=weight)
    disc, _ = loss(torch.zeros(()), x, x.clone(), 1, step)
    return log["train/disc_factor"].item(), float(disc > 0)


def test_it_starts_when_validation_has_settled():
    start = AutoStart(patience=2)
    for step, rec_loss in enumerate([1.0, 0.9, 0.895, 0.8, 0.799, 0.801]):
        assert start.step == NEVER, step
        start.observe(rec_loss, step)
    assert start.step == 5
    start.observe(0.1, 6)
    assert start.step == 5


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=30), st.integers(1, 5))
def test_it_never_starts_before_patience_validations_without_a_new_low(losses, patience):
    start = AutoStart(patience=patience)
    for step, loss in enumerate(losses):
        start.observe(loss, step)
    if start.step != NEVER:
        low = min(losses[: start.step - patience + 1])
        assert all(loss >= low * (1 - start.tolerance) for loss in losses[start.step - patience + 1 : start.step + 1])
    elif len(losses) > patience:
        assert min(losses[-patience:]) < max(losses[:-patience])


def test_the_decision_survives_a_checkpoint(tmp_path):
    source, restored = criterion(disc_start="auto"), criterion(disc_start="auto")
    for step in range(4):
        source.observe_validation(1.0, step)
    torch.save(source.state_dict(), tmp_path / "loss.pt")
    restored.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    assert restored.auto_start.step == source.auto_start.step == 3
    assert factors(restored, 2) == (0.0, 0.0) and factors(restored, 3) == (1.0, 1.0)


def test_a_step_adds_nothing_to_the_state_dict():
    assert not [key for key in criterion(disc_start=3).state_dict() if "start" in key]


def test_warm_up_trains_the_discriminator_alone():
    loss = criterion(disc_start=10, disc_warmup=5)
    assert [factors(loss, step) for step in (9, 10, 14, 15)] == [(0.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0)]


def test_the_adaptive_weight_is_bounded():
    x = torch.rand(2, 3, 16, 16)
    weights = []
    for bound in (1e4, 0.5):
        torch.manual_seed(0)
        loss, layer = criterion(disc_start=0, disc_weight=0.8, max_d_weight=bound), torch.ones(3, 3, 1, 1)
        layer.requires_grad_()
        reconstruction = torch.nn.functional.conv2d(x, layer)
        _, log = loss(torch.zeros(()), x, reconstruction, 0, 0, last_layer=layer)
        weights.append(log["train/d_weight"].item())
    assert weights[0] > 0.4 and weights[1] == pytest.approx(0.4)


def test_a_word_other_than_auto_is_an_error():
    with pytest.raises(ValueError, match="disc_start is 'soon'; it is a step or auto"):
        criterion(disc_start="soon")


def test_a_model_starts_its_discriminator_by_itself(tmp_path):
    """A learning rate of zero cannot improve anything: the fourth validation is the third without a new low."""
    config = {
        "target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
        "params": {"disc_start": "auto", "disc_num_layers": 1, "disc_ndf": 4, "perceptual_weight": 0.0},
    }
    model = VQModel(ddconfig(), config, n_embed=8, embed_dim=4)
    model.learning_rate = 0.0
    batches = DataLoader([{"image": torch.rand(2, 16, 16, 3)}] * 2, batch_size=None)
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append(trainer.callback_metrics["train/disc_factor_step"].item())

    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=6, callbacks=[Watch()], **options)
    trainer.fit(model, batches, batches)
    assert seen == [0.0] * 8 + [1.0] * 4
