"""The other first stages: figures of the published implementation, training through the Trainer, resuming."""

import pytest
import pytorch_lightning as pl
import torch
from parity import agree, build, cases, describe, grad_norms, inputs
from tiny_configs import ddconfig
from torch.utils.data import DataLoader

from taming.config import get_obj_from_str
from taming.models.vqgan import EMAVQ, GumbelVQ, VQModel, VQNoDiscModel, VQSegmentationModel

CASES = cases("vqmodels")
LOSSES = "taming.modules.losses"
GAN = {
    "target": f"{LOSSES}.vqperceptual.VQLPIPSWithDiscriminator",
    "params": {"disc_start": 1, "disc_num_layers": 1, "disc_ndf": 4, "perceptual_weight": 0.0},
}
NO_DISC = {"target": f"{LOSSES}.vqperceptual.VQLPIPS", "params": {"perceptual_weight": 0.0}}
BCE = {"target": f"{LOSSES}.segmentation.BCELossWithQuant", "params": {"codebook_weight": 1.0}}
TEMPERATURE = {
    "target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler",
    "params": {"warm_up_steps": 0, "max_decay_steps": 4, "lr_start": 0.9, "lr_max": 0.9, "lr_min": 0.1},
}
SIZE = {"n_embed": 16, "embed_dim": 4}


@pytest.mark.parametrize("name", ["gumbelvq/eval", "gumbelvq/train"])
def test_gumbelvq(name, gumbel_noise):
    """Decision D17: the published eval mode draws noise, which stochastic_eval restores."""
    case = CASES[name]
    model = build(case)
    model.quantize.stochastic_eval = True
    gumbel_noise(case["noise"]["fill"])
    x = inputs(case)["x"]
    quant, kl, (_, _, indices) = model.encode(x)
    reconstruction, loss = model(x)
    (loss + reconstruction.square().mean()).backward()
    stored = case["outputs"]["grad_norms_of_kl_plus_mean_square_of_reconstruction"]
    got = {
        "prequant": model.encode_to_prequant(x),
        "quant": quant,
        "kl": kl,
        "indices": indices,
        "reconstruction": reconstruction,
        "loss_n_classes": model.loss.n_classes,
        "vocab_size": model.vocab_size,
        "grad_norms_of_kl_plus_mean_square_of_reconstruction": grad_norms(model, stored),
    }
    assert model.quantize.temperature == 1.0
    model.temperature_scheduling()
    got["temperature_after_scheduling_at_step_0"] = model.quantize.temperature
    got["reconstruction_at_that_temperature"] = model(x)[0]
    agree(case["outputs"], got)


def test_gumbelvq_encodes_an_image_twice_to_the_same_codes():
    model = GumbelVQ(ddconfig(), GAN, **SIZE, temperature_scheduler_config=TEMPERATURE).eval()
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(model.encode(x)[2][2], model.encode(x)[2][2])


def test_gumbelvq_with_another_code_dimension_than_the_encoders():
    """Decision D45."""
    model = GumbelVQ(ddconfig(z_channels=8), GAN, **SIZE, temperature_scheduler_config=TEMPERATURE)
    assert model(torch.rand(1, 3, 16, 16))[0].shape == (1, 3, 16, 16)


def optimizer_figures(case_optimizers, model, learning_rate):
    """The optimizers of a model in the form of the figures, and the stored ones without what is not compared."""
    model.learning_rate = learning_rate
    optimizers = model.configure_optimizers()
    optimizers = optimizers[0] if isinstance(optimizers, tuple) else [optimizers]
    names_of = {id(parameter): name for name, parameter in model.named_parameters()}
    got = [[[names_of[id(p)] for p in group["params"]] for group in opt.param_groups] for opt in optimizers]
    for optimizer, stored in zip(optimizers, case_optimizers, strict=True):
        assert type(optimizer).__name__ == stored["class"]
        assert optimizer.defaults["lr"] == stored["lr"] and list(optimizer.defaults["betas"]) == stored["betas"]
    return got, [stored["groups"] for stored in case_optimizers]


def test_gumbelvq_optimizers():
    case = CASES["gumbelvq/optimizers"]
    model = get_obj_from_str(case["target"])(**case["kwargs"])
    got, stored = optimizer_figures(case["outputs"]["optimizers"], model, case["learning_rate"])
    assert got == stored


def test_segmentation_model():
    case = CASES["segmentation"]
    model = build(case)
    x = inputs(case)["x"]
    reconstruction, qloss, indices = model(x, return_pred_indices=True)
    loss, log = model.loss(qloss, x, reconstruction, split="train")
    loss.backward()
    got = {
        "indices": indices,
        "reconstruction": reconstruction,
        "qloss": qloss,
        "loss": loss,
        "log": log,
        "grad_norms": grad_norms(model, case["outputs"]["grad_norms"]),
        "argmax": reconstruction.argmax(dim=1, keepdim=True),
        "to_rgb_of_input": model.to_rgb(x),
        "colorize": model.colorize,
    }
    agree({key: value for key, value in case["outputs"].items() if key != "distance_margin_min"}, got)
    logged = model.log_images({"segmentation": x.permute(0, 2, 3, 1)})
    agree(CASES["log-images/segmentation"]["outputs"], logged)
    groups, stored = optimizer_figures(case["optimizers"]["optimizers"], model, case["optimizers"].get("lr", 1e-4))
    assert groups == stored


def test_segmentation_palette_is_restored_from_the_checkpoint(tmp_path):
    """Decision D43."""
    labels = {"n_labels": 5, "ddconfig": ddconfig(in_channels=5, out_ch=5), "lossconfig": BCE, **SIZE}
    source = VQSegmentationModel(**labels)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "source.ckpt")
    restored = VQSegmentationModel(**labels, ckpt_path=str(tmp_path / "source.ckpt"))
    assert torch.equal(restored.colorize, source.colorize)
    assert describe(restored.colorize) == "float32[3, 5, 1, 1]"


MODELS = {
    "VQModel": (VQModel, {"lossconfig": GAN}),
    "VQModel, residual": (
        VQModel,
        {
            "lossconfig": GAN,
            "quantizer_config": {
                "target": "taming.modules.vqvae.library.LibraryQuantizer",
                "params": {"quantizer": "ResidualVQ", "num_quantizers": 2},
            },
        },
    ),
    "EMAVQ": (EMAVQ, {"lossconfig": GAN, "kmeans_init": True, "revive_threshold": 0.1}),
    "GumbelVQ": (GumbelVQ, {"lossconfig": GAN, "temperature_scheduler_config": TEMPERATURE}),
    "VQNoDiscModel": (VQNoDiscModel, {"lossconfig": NO_DISC}),
    "VQNoDiscModel, loss with discriminator": (VQNoDiscModel, {"lossconfig": GAN}),
    "VQNoDiscModel, BCE": (VQNoDiscModel, {"lossconfig": BCE}),
    "VQSegmentationModel": (VQSegmentationModel, {"lossconfig": BCE, "n_labels": 3}),
}


@pytest.fixture(params=MODELS)
def make_model(request):
    cls, params = MODELS[request.param]

    def make(seed=0):
        torch.manual_seed(seed)
        model = cls(ddconfig=ddconfig(), **SIZE, **params)
        model.learning_rate = 1e-3
        return model

    return make


def loader(count=3):
    images = torch.rand(count, 2, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return DataLoader([{"image": batch} for batch in images], batch_size=None)


def fit(model, tmp_path, epochs, ckpt_path=None, callbacks=(), precision="32-true"):
    pl.seed_everything(1)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        max_epochs=epochs,
        callbacks=list(callbacks),
        precision=precision,
    )
    trainer.fit(model, loader(), loader(2), ckpt_path=ckpt_path)
    return trainer


class Reseed(pl.Callback):
    """The same random numbers in a batch whether or not training was interrupted before."""

    def on_train_batch_start(self, trainer, *_):
        torch.manual_seed(100 + trainer.global_step)


def test_every_first_stage_trains_validates_and_resumes(make_model, tmp_path):
    whole = make_model()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer = fit(whole, tmp_path, epochs=2, callbacks=[Reseed()])
    assert trainer.global_step == 6
    changed = {name.split(".")[0] for name, value in whole.state_dict().items() if not torch.equal(value, before[name])}
    assert changed >= {"encoder", "decoder", "quant_conv", "post_quant_conv", "quantize"}
    metrics = trainer.callback_metrics
    assert {"train/total_loss_step", "val/total_loss_epoch", "val/codebook_usage"} <= metrics.keys() | {
        f"{name}_{part}" for name in metrics for part in ("step", "epoch")
    }
    first, second = make_model(), make_model(seed=1)
    fit(first, tmp_path, epochs=1, callbacks=[Reseed()]).save_checkpoint(tmp_path / "half.ckpt")
    resumed = fit(second, tmp_path, epochs=2, ckpt_path=tmp_path / "half.ckpt", callbacks=[Reseed()])
    assert resumed.global_step == 6
    expected, got = whole.state_dict(), second.state_dict()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())


def test_gumbel_temperature_follows_the_steps_and_is_logged(tmp_path):
    model = GumbelVQ(ddconfig(), GAN, **SIZE, temperature_scheduler_config=TEMPERATURE)
    model.learning_rate = 1e-3
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append(trainer.callback_metrics["temperature_step"].item())

    fit(model, tmp_path, epochs=1, callbacks=[Watch()])
    assert seen == pytest.approx([model.temperature_scheduler(step) for step in range(3)])
    assert model.quantize.temperature < 0.9


def test_a_discriminator_that_is_never_trained_never_counts():
    """Decision D44: VQNoDiscModel with a discriminator loss stays before its start for ever."""
    loss = {**GAN, "params": {**GAN["params"], "disc_start": 0}}
    model = VQNoDiscModel(ddconfig(), loss, **SIZE)
    assert model._loss_options("train")["global_step"] == -1
    _, log = model._one_loss({"image": torch.rand(2, 16, 16, 3)}, "train")
    assert log["train/disc_factor"] == log["train/g_loss"] == 0


def test_images_that_a_model_cannot_read():
    model = VQModel(ddconfig(ch_mult=[1, 2, 2]), {"target": f"{LOSSES}.DummyLoss"}, **SIZE).eval()
    with pytest.raises(ValueError, match=r"18 x 16 pixels: height and width must be multiples of 4"):
        model(torch.rand(1, 3, 18, 16))
    assert model.encode(torch.rand(1, 3, 18, 16))[0].shape == (1, 4, 4, 4)  # published: rounded down
    with pytest.raises(ValueError, match=r"reads \(b, 3, h, w\)"):
        model.encode(torch.rand(1, 1, 16, 16))
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.encode(torch.full((1, 3, 16, 16), float("nan")))


def test_other_precisions_of_all_weights(tmp_path):
    model = VQModel(ddconfig(), GAN, **SIZE)
    model.learning_rate = 1e-3
    assert fit(model, tmp_path, epochs=1, precision="64-true").global_step == 3
    assert model.get_input({"image": torch.rand(2, 16, 16, 3)}, "image").dtype == torch.float64
    with pytest.raises(ValueError, match="the codebook was rounded"):
        fit(model, tmp_path, epochs=1, precision="bf16-true")


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels_and_any_multiple_of_the_factor(channels):
    model = VQModel(ddconfig(in_channels=channels, out_ch=channels), {"target": f"{LOSSES}.DummyLoss"}, **SIZE).eval()
    for height, width in ((2, 2), (16, 16), (6, 34)):
        x = torch.rand(2, channels, height, width)
        reconstruction, _, indices = model(x, return_pred_indices=True)
        assert reconstruction.shape == x.shape
        assert indices.shape == (2 * height * width // 4,)


def test_channels_last_changes_the_layout_only(tmp_path):
    models = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        models.append(VQModel(ddconfig(), GAN, **SIZE, channels_last=channels_last))
    assert models[1].encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 16, 16)
    (plain, _, indices), (fast, _, fast_indices) = (model(x, return_pred_indices=True) for model in models)
    assert torch.equal(indices, fast_indices)
    assert torch.allclose(plain, fast, rtol=1e-4, atol=1e-4)  # other convolution kernels
    models[1].learning_rate = 1e-3
    fit(models[1], tmp_path, epochs=1)
    assert models[1].encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_compiled_networks_train_the_same(tmp_path):
    """With the backend that only traces: same gradients, state-dict keys stay.

    Weights after some steps are no measure: biases before group norms have no gradient but rounding, which Adam makes
    as large as any other step.
    """
    x, models = torch.rand(2, 3, 16, 16), []
    for compile_networks in (False, "eager"):
        torch.manual_seed(0)
        models.append(VQModel(ddconfig(), GAN, **SIZE, compile=compile_networks))
        models[-1].learning_rate = 1e-3
        reconstruction, codebook_loss = models[-1](x)
        (reconstruction.square().mean() + codebook_loss).backward()
    gradients = [{name: p.grad for name, p in model.named_parameters() if p.grad is not None} for model in models]
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-7), name
    assert fit(models[1], tmp_path, epochs=1).global_step == 3
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    assert models[1].encoder._compiled_call_impl is not None
