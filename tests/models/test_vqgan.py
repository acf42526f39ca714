"""VQModel and EMAVQ: figures of the published implementation, and training through the Trainer."""

import pytest
import pytorch_lightning as pl
import torch
from parity import agree, build, cases, fill, grad_norms, inputs, names
from tiny_configs import ddconfig
from torch.utils.data import DataLoader

from taming.config import get_obj_from_str
from taming.models.vqgan import EMAVQ, VQModel

CASES = cases("vqmodels")
MODELS = [name for name in names("vqmodels", "vqmodel/") if "quant" in CASES[name]["outputs"]]
DDCONFIG = ddconfig()


def loss_config(**params):
    params = {"disc_start": 2, "disc_num_layers": 1, "disc_ndf": 4, "perceptual_weight": 0.0} | params
    return {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "params": params}


@pytest.mark.parametrize("name", MODELS)
def test_encode_decode_and_gradients(name):
    case = CASES[name]
    model = build(case)
    x, outputs = inputs(case)["x"], case["outputs"]
    quant, emb_loss, (_, _, indices) = model.encode(x)
    reconstruction, qloss = model(x)
    (qloss + reconstruction.square().mean()).backward()
    b, _, h, w = quant.shape
    stored = outputs["grad_norms_of_qloss_plus_mean_square_of_reconstruction"]
    agree(
        {key: value for key, value in outputs.items() if key not in ("distance_margin_min", "last_layer_is")},
        {
            "prequant": model.quant_conv(model.encoder(x)),
            "quant": quant,
            "emb_loss": emb_loss,
            "indices": indices,
            "reconstruction": reconstruction,
            "qloss": qloss,
            "decode_of_quant": model.decode(quant),
            "grad_norms_of_qloss_plus_mean_square_of_reconstruction": grad_norms(model, stored),
            "decode_of_codebook_entries": model.decode_code(indices.view(b, h, w)),
        },
    )
    assert model.get_last_layer() is dict(model.named_parameters())[outputs["last_layer_is"]]
    assert torch.equal(model(x, return_pred_indices=True)[2], indices)


def test_optimizers():
    """Positional optimizer states of published checkpoints depend on this order (decision D01)."""
    case = CASES["vqmodel/optimizers"]
    model = get_obj_from_str(case["target"])(**case["kwargs"])
    with pytest.raises(AttributeError, match="learning_rate"):
        model.configure_optimizers()
    model.learning_rate = case["learning_rate"]
    optimizers, schedulers = model.configure_optimizers()
    names_of = {id(parameter): name for name, parameter in model.named_parameters()}
    assert schedulers == case["outputs"]["schedulers"]
    for optimizer, stored in zip(optimizers, case["outputs"]["optimizers"], strict=True):
        assert type(optimizer).__name__ == stored["class"]
        for key in ("lr", "eps", "weight_decay"):
            assert optimizer.defaults[key] == stored[key]
        assert list(optimizer.defaults["betas"]) == stored["betas"]
        assert [[names_of[id(p)] for p in group["params"]] for group in optimizer.param_groups] == stored["groups"]


def test_losses_at_start():
    case = CASES["vqmodel/losses-at-start"]
    model, x, got = build(case), inputs(case)["x"], {}
    for index, module in enumerate((model, model.loss.discriminator)):
        model.zero_grad()
        reconstructions, codebook_loss = model(x)
        model.loss.discriminator.requires_grad_(index == 1)
        loss, log = model.loss(
            codebook_loss, x, reconstructions, index, case["global_step"], last_layer=model.get_last_layer()
        )
        loss.backward()
        stored = case["outputs"][f"optimizer_{index}"]["grad_norms"]
        prefix = "loss.discriminator."
        norms = grad_norms(module, [name.removeprefix(prefix) if index else name for name in stored])
        norms = {(name if name in stored else prefix + name): norm for name, norm in norms.items()}
        got[f"optimizer_{index}"] = {"loss": loss, "log": log, "grad_norms": norms}
    agree(case["outputs"], got, atol=1e-4)


class Batches(torch.utils.data.Dataset):
    """One prepared batch per item."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index].permute(0, 2, 3, 1)}


def loader(images):
    return DataLoader(Batches(images), batch_size=None)


def trainer(tmp_path, **options):
    defaults = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults |= {"default_root_dir": tmp_path, "enable_checkpointing": False, "max_epochs": 1}
    return pl.Trainer(**(defaults | options))


class Recorder(pl.Callback):
    """What was logged in each training batch, and the trainer's step after it."""

    def __init__(self):
        self.logs, self.steps = [], []

    def on_train_batch_end(self, trainer, *_):
        self.logs.append({key: float(value) for key, value in trainer.callback_metrics.items()})
        self.steps.append(trainer.global_step)


def fit(model, images, tmp_path, **options):
    recorder = Recorder()
    trainer(tmp_path, callbacks=[recorder], **options).fit(model, loader(images))
    return recorder


def test_training_through_the_trainer_is_the_published_trajectory(tmp_path):
    """Before disc_start d_weight and g_loss are 0 and the discriminator runs once less (decision D29)."""
    case = CASES["vqmodel/training"]
    model = build(case)
    model.learning_rate = case["learning_rate"]
    batches = [
        torch.from_numpy(fill.fill(f"input:vqmodel/training/batch{step}", (2, 3, 16, 16), "image")) for step in range(4)
    ]
    recorder = fit(model, batches, tmp_path)
    assert recorder.steps == [1, 2, 3, 4]
    for step, (stored, logged) in enumerate(zip(case["outputs"]["steps"], recorder.logs, strict=True)):
        expected = stored["optimizer_0"]["log"] | stored["optimizer_1"]["log"]
        if step < 2:
            del expected["train/d_weight"], expected["train/g_loss"]
            assert logged["train/d_weight"] == logged["train/g_loss"] == 0
        agree(expected, {key: torch.tensor(logged[key]) for key in expected}, atol=1e-4)
    norms = {name: parameter.norm() for name, parameter in model.named_parameters()}
    stored = {name: norm for name, norm in case["outputs"]["norms_after"].items() if name in norms}
    assert len(stored) >= 8
    agree(stored, norms, atol=1e-4)


def tiny(cls=VQModel, seed=0, **options):
    torch.manual_seed(seed)
    params = {"disc_start": options.pop("disc_start", 2)}
    model = cls(DDCONFIG, loss_config(**params), n_embed=16, embed_dim=4, **options)
    model.learning_rate = 1e-3
    return model


def random_images(count, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.rand(count, batch, 3, 16, 16, generator=generator) * 2 - 1)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_disc_start_is_met_on_its_batch(tmp_path):
    recorder = fit(tiny(disc_start=3), random_images(6), tmp_path)
    assert [log["train/disc_factor"] for log in recorder.logs] == [0, 0, 0, 1, 1, 1]
    assert [log["train/g_loss"] != 0 for log in recorder.logs] == [False] * 3 + [True] * 3


def test_max_steps_counts_batches(tmp_path):
    recorder = fit(tiny(), random_images(6), tmp_path, max_steps=4, max_epochs=-1)
    assert recorder.steps == [1, 2, 3, 4]


def use_gradient_descent(model):
    """Plain steps of rate 1: Adam would blow the rounding noise of vanishing gradients up."""
    autoencoder = [*model.encoder.parameters(), *model.decoder.parameters()]
    parts = (autoencoder, model.loss.discriminator.parameters())
    model.configure_optimizers = lambda: ([torch.optim.SGD(part, lr=1.0) for part in parts], [])


def test_accumulation_equals_the_larger_batch_where_batch_statistics_play_no_part(tmp_path):
    images = random_images(4)
    accumulated, large = tiny(disc_start=99), tiny(disc_start=99)
    accumulated.accumulate_grad_batches = 2
    for model in (accumulated, large):
        use_gradient_descent(model)
    recorder = fit(accumulated, images, tmp_path)
    assert recorder.steps == [0, 1, 1, 2]
    fit(large, [torch.cat(images[:2]), torch.cat(images[2:])], tmp_path)
    for name, value in weights(large).items():
        if not name.startswith("loss."):
            assert torch.allclose(weights(accumulated)[name], value, atol=1e-5), name


def test_last_batch_of_an_epoch_completes_an_accumulation(tmp_path):
    model = tiny()
    model.accumulate_grad_batches = {0: 4, 1: 2}
    assert fit(model, random_images(3), tmp_path, max_epochs=2).steps == [0, 0, 1, 1, 2, 3]


def test_clipping_bounds_the_step(tmp_path):
    """With plain gradient descent the change of the weights is the clipped gradient times the rate."""
    model = tiny(disc_start=99)
    model.gradient_clip_val = 0.01
    use_gradient_descent(model)
    before = weights(model)
    fit(model, random_images(1), tmp_path)
    after = weights(model)
    change = sum((after[name] - before[name]).square().sum() for name, _ in model.named_parameters())
    assert 0.009 < change.sqrt() < 0.0101


def test_shared_forward_shows_the_discriminator_the_first_reconstruction(tmp_path):
    """Decision D57: one forward pass less; before disc_start the autoencoder's trajectory is the same."""
    results, calls = [], []
    for shared in (False, True):
        model, count = tiny(disc_start=99, shared_forward=shared), [0]
        model.decoder.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        fit(model, random_images(3), tmp_path)
        results.append(weights(model))
        calls.append(count[0])
    assert calls == [6, 3]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0] if "loss." not in name)


@pytest.mark.parametrize("shared_forward", [False, True])
def test_one_batch_is_one_ema_step(tmp_path, shared_forward):
    """Decision D47."""
    model = tiny(EMAVQ, shared_forward=shared_forward, decay=0.5)
    updates = []
    model.quantize.embedding.weight_update = lambda k: updates.append(k)
    fit(model, random_images(3), tmp_path)
    assert updates == [16] * 3


def test_codebook_of_emavq_is_in_no_optimizer_and_moves(tmp_path):
    model = tiny(EMAVQ, kmeans_init=True, revive_threshold=0.1)
    optimizers, _ = model.configure_optimizers()
    trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in model.quantize.parameters()}
    before = model.quantize.embedding.weight.clone()
    fit(model, random_images(2), tmp_path)
    assert not torch.equal(model.quantize.embedding.weight, before)


def test_schedule_multiplies_both_rates_per_step(tmp_path):
    schedule = {"warm_up_steps": 2, "lr_start": 0.0, "lr_max": 1.0, "lr_min": 0.0, "max_decay_steps": 4}
    config = {"target": "taming.lr_scheduler.LambdaWarmUpCosineScheduler", "params": schedule}
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])

    trainer(tmp_path, callbacks=[Rates()]).fit(tiny(scheduler_config=config), loader(random_images(5)))
    expected = [0.0, 5e-4, 1e-3, 5e-4, 0.0]
    assert rates == [[pytest.approx(rate), pytest.approx(rate)] for rate in expected]


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    images = random_images(4)
    whole = tiny(EMAVQ, kmeans_init=True)
    trainer(tmp_path, max_epochs=2).fit(whole, loader(images))
    second, first = tiny(EMAVQ, kmeans_init=True, seed=1), tiny(EMAVQ, kmeans_init=True)
    half = trainer(tmp_path, max_epochs=1)
    half.fit(first, loader(images))
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed = trainer(tmp_path, max_epochs=2)
    resumed.fit(second, loader(images), ckpt_path=tmp_path / "half.ckpt")
    assert resumed.global_step == 8
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(whole).items())


def test_validation_logs_each_name_once_and_without_gradient(tmp_path):
    model = tiny(disc_start=0)
    (logged,) = trainer(tmp_path).validate(model, loader(random_images(2)), verbose=False)
    expected = {"aeloss", "rec_loss", "total_loss", "quant_loss", "nll_loss", "p_loss", "d_weight", "disc_factor"}
    expected |= {"g_loss", "disc_loss", "logits_real", "logits_fake"}
    assert {name.removesuffix("_epoch") for name in logged} >= {f"val/{name}" for name in expected}
    assert logged["val/d_weight_epoch"] == 0 and logged["val/g_loss_epoch"] != 0


def test_log_images():
    case = CASES[MODELS[0]]
    batch = {"image": inputs(case)["x"].permute(0, 2, 3, 1)}
    agree(CASES["log-images/vqmodel"]["outputs"], build(case).log_images(batch))


def test_get_input():
    model = tiny()
    outputs = CASES["get-input"]["outputs"]
    assert list(model.get_input({"x": torch.zeros(2, 16, 16, 3)}, "x").shape) == outputs["from (B,H,W,C)"]
    double = model.get_input({"x": torch.zeros(2, 16, 16, dtype=torch.float64)}, "x")
    assert list(double.shape) == outputs["from (B,H,W)"] and str(double.dtype) == outputs["dtype of a float64 batch"]


def test_models_work_without_their_loss():
    model = tiny().eval()
    del model.loss
    x = random_images(1)[0]
    quant, _, (_, _, indices) = model.encode(x)
    assert torch.allclose(model.decode(quant), model(x)[0])
    assert torch.allclose(model.decode_code(indices.view(2, 8, 8)), model(x)[0], atol=1e-5)


def test_label_maps_are_coloured_in_range_and_with_the_checkpoints_palette():
    labels = ddconfig(in_channels=5, out_ch=5)
    options = {"n_embed": 16, "embed_dim": 4, "image_key": "segmentation"}
    dummy = {"target": "taming.modules.losses.DummyLoss"}
    source = VQModel(labels, dummy, colorize_nlabels=5, **options)
    without = VQModel(labels, dummy, **options)
    without.load_state_dict(source.state_dict())
    batch = {"segmentation": torch.eye(5)[torch.randint(5, (2, 16, 16))]}
    logged = without.log_images(batch)
    assert torch.equal(without.colorize, source.colorize)
    for image in logged.values():
        assert image.shape == (2, 3, 16, 16) and image.min() == -1 and image.max() == 1


def test_published_size():
    """Anchors of models.md section 19."""
    networks = {"z_channels": 256, "resolution": 256, "ch": 128, "ch_mult": [1, 1, 2, 2, 4]}
    published = ddconfig(num_res_blocks=2, attn_resolutions=[16], **networks)
    with torch.device("meta"):
        model = VQModel(published, {"target": "taming.modules.losses.DummyLoss"}, n_embed=1024, embed_dim=256)
    sizes = [sum(p.numel() for p in module.parameters()) for module in (model.encoder, model.decoder, model)]
    assert sizes == [29_298_176, 42_449_795, 72_141_699]
    assert len(model.state_dict()) == 343
    attention = {key.split(".norm")[0] for key in model.state_dict() if ".attn" in key and ".norm." in key}
    assert attention == {
        *("encoder.down.4.attn.0", "encoder.down.4.attn.1", "encoder.mid.attn_1", "decoder.mid.attn_1"),
        *("decoder.up.4.attn.0", "decoder.up.4.attn.1", "decoder.up.4.attn.2"),
    }
