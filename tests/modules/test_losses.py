"""Losses: figures of the published implementation, the shared backward against the plain formula, and lazy weights."""

import pytest
import torch
from parity import agree, build, cases, grad_norms, inputs, make, names
from torch import nn
from torch.nn import functional as F

from taming.modules.losses import lpips, vqperceptual
from taming.modules.losses.lpips import LPIPS
from taming.modules.losses.vqperceptual import VQLPIPS, VQLPIPSWithDiscriminator, adopt_weight

CASES = cases("losses")


def test_gan_losses():
    case = CASES["gan-losses"]
    logits = {key: torch.tensor(values) for key, values in case["inputs"].items()}
    agree(case["outputs"], {key: getattr(vqperceptual, key)(**logits) for key in ("hinge_d_loss", "vanilla_d_loss")})


def test_adopt_weight():
    for arguments, expected in CASES["adopt-weight"]["outputs"]:
        assert adopt_weight(*arguments) == expected


@pytest.mark.parametrize("name", names("losses", "lpips"))
def test_lpips(name):
    case = CASES[name]
    metric = build(case)
    x, y = (image.requires_grad_() for image in inputs(case).values())
    out = metric(x, y)
    out.sum().backward()
    features = metric.net(metric.scaling_layer(x))._asdict()
    agree(case["outputs"], {"out": out, "grad_norm_second_input": y.grad.norm(), "features_of_x": features})


@pytest.mark.parametrize("name", names("losses", "vqlpips"))
def test_vqlpips_with_discriminator(name):
    case = CASES[name]
    criterion = build(case)
    tensors = inputs(case)
    last = [tensors[key].requires_grad_() for key in ("last_weight", "last_bias")]
    codebook_loss = tensors["codebook_loss"].reshape(-1).requires_grad_()
    cond = tensors.get("c")
    with torch.set_grad_enabled(not case["no_grad"]):
        reconstructions = F.conv2d(tensors["h"], *last, padding=1)
        options = {"global_step": case["global_step"], "last_layer": last[0], "cond": cond}
        generator, generator_log = criterion(codebook_loss, tensors["x"], reconstructions, 0, **options)
        got = {"reconstructions": reconstructions, "generator": {"loss": generator, "log": generator_log, "...": 1}}
        if not case["no_grad"]:
            criterion.requires_grad_(False)
            generator.backward()
            grads = {"last_weight": last[0].grad, "last_bias": last[1].grad, "codebook_loss": codebook_loss.grad}
            got["generator"]["grads"] = grads
            criterion.discriminator.requires_grad_(True)
        discriminator, log = criterion(codebook_loss, tensors["x"], reconstructions.detach(), 1, **options)
    got["discriminator"] = {"loss": discriminator, "log": log}
    stored_norms = case["outputs"]["discriminator"].get("grad_norms")
    if stored_norms is not None:
        discriminator.backward()
        got["discriminator"]["grad_norms"] = grad_norms(criterion.discriminator, stored_norms)
    got["discriminator_state_after"] = criterion.discriminator.state_dict()
    agree(expected_outputs(case), got)


def expected_outputs(case):
    """The published figures, but before disc_start (decision D29) the generator pass leaves the discriminator alone."""
    outputs = dict(case["outputs"])
    if case["global_step"] >= case["kwargs"]["disc_start"]:
        return outputs
    del outputs["discriminator_state_after"]
    zero = {"shape": [], "dtype": "float32", "values": [0.0]}
    log = outputs["generator"]["log"] | {"train/d_weight": zero, "train/g_loss": zero}
    return outputs | {"generator": outputs["generator"] | {"log": log}}


class Painter(nn.Module):
    """A decoder of two layers: enough for an adaptive weight."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, h):
        return self.last(F.silu(self.body(h)))


def filled_criterion(**options):
    torch.manual_seed(0)
    criterion = VQLPIPSWithDiscriminator(disc_start=0, disc_ndf=8, disc_num_layers=2, disc_weight=0.8, **options)
    for parameter in criterion.perceptual_loss.net.parameters():
        nn.init.normal_(parameter, std=0.05)
    for index in range(5):
        nn.init.uniform_(getattr(criterion.perceptual_loss, f"lin{index}").model[1].weight)
    return criterion


@pytest.mark.parametrize("perceptual_weight", [0.0, 1.0])
def test_one_backward_through_each_network_equals_the_plain_formula(perceptual_weight):
    """DESIGN section 3.1: loss, adaptive weight and all gradients as by two more backward passes."""
    criterion = filled_criterion(perceptual_weight=perceptual_weight)
    torch.manual_seed(1)
    painter, x, h = Painter(), torch.rand(2, 3, 32, 32) * 2 - 1, torch.randn(2, 4, 32, 32)
    criterion.discriminator.requires_grad_(False)

    reconstructions = painter(h)
    loss, log = criterion(torch.tensor(0.5), x, reconstructions, 0, 0, last_layer=painter.last.weight)
    loss.backward()
    fast = {name: parameter.grad.clone() for name, parameter in painter.named_parameters()}

    painter.zero_grad()
    reconstructions = painter(h)
    nll = (x - reconstructions).abs().mean()
    if perceptual_weight > 0:
        nll = nll + perceptual_weight * criterion.perceptual_loss(x, reconstructions).mean()
    g = -criterion.discriminator(reconstructions).mean()
    weight = criterion.calculate_adaptive_weight(nll, g, last_layer=painter.last.weight)
    plain = nll + weight * g + 0.5
    plain.backward()

    assert torch.allclose(loss, plain, rtol=1e-6)
    assert torch.allclose(log["train/d_weight"], weight, rtol=1e-5)
    for name, parameter in painter.named_parameters():
        assert (fast[name] - parameter.grad).norm() <= 2e-6 * parameter.grad.norm(), name


def test_backward_scales_with_the_incoming_gradient():
    """Loss scaling of mixed precision and gradient accumulation multiply the loss before the backward pass."""
    criterion = filled_criterion(perceptual_weight=0.0)
    x, gradients = torch.rand(1, 3, 32, 32), []
    for scale in (1.0, 1024.0):
        torch.manual_seed(2)
        painter = Painter()
        loss, _ = criterion(torch.zeros(()), x, painter(torch.ones(1, 4, 32, 32)), 0, 0, last_layer=painter.last.weight)
        (scale * loss).backward()
        gradients.append(painter.body.weight.grad / scale)
    assert torch.allclose(*gradients, rtol=1e-5)


class Forbidden(nn.Module):
    def forward(self, *args):
        raise AssertionError("must not run")


def test_before_disc_start_the_generator_pass_never_meets_the_discriminator():
    """Decision D29, and gradients equal to the loss without adversarial term."""
    criterion = VQLPIPSWithDiscriminator(disc_start=10, perceptual_weight=0.0, disc_ndf=8)
    criterion.discriminator = Forbidden()
    x, reconstructions = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32, requires_grad=True)
    loss, log = criterion(torch.zeros(()), x, reconstructions, 0, 9, last_layer=None)
    (gradient,) = torch.autograd.grad(loss, reconstructions)
    (plain,) = torch.autograd.grad((x - reconstructions).abs().mean(), reconstructions)
    assert torch.equal(gradient, plain)
    assert log["train/d_weight"] == log["train/g_loss"] == log["train/disc_factor"] == 0
    with pytest.raises(AssertionError, match="must not run"):
        criterion(torch.zeros(()), x, reconstructions, 0, 10, last_layer=reconstructions)


def test_perceptual_weight_zero_runs_no_lpips_and_discriminator_pass_never_does():
    for weight, optimizer_idx in ((0.0, 0), (0.0, 1), (1.0, 1)):
        criterion = VQLPIPSWithDiscriminator(disc_start=10, perceptual_weight=weight, disc_ndf=8)
        criterion.perceptual_loss = Forbidden()
        x = torch.rand(1, 3, 32, 32)
        _, log = criterion(torch.zeros(()), x, x + 0.1, optimizer_idx, 0)
        assert log.get("train/p_loss", torch.zeros(())) == 0


def test_adaptive_weight_needs_a_last_layer_and_gradients_in_training():
    criterion = filled_criterion(perceptual_weight=0.0)
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match="last_layer"):
        criterion(torch.zeros(()), x, x.clone().requires_grad_(), 0, 0)
    with pytest.raises(RuntimeError, match="gradients"):
        criterion(torch.zeros(()), x, x, 0, 0, last_layer=torch.rand(3))
    _, log = criterion.eval()(torch.zeros(()), x, x, 0, 0, last_layer=torch.rand(3), split="val")
    assert log["val/d_weight"] == 0 and log["val/g_loss"] != 0


def test_condition_is_for_conditional_discriminators_only():
    criterion = VQLPIPSWithDiscriminator(disc_start=0, perceptual_weight=0.0, disc_ndf=8)
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(AssertionError, match="disc_conditional"):
        criterion(torch.zeros(()), x, x, 1, 0, cond=x)


def test_vqlpips_is_the_generator_loss_before_disc_start():
    x, y, codebook_loss = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.tensor(0.25)
    loss, log = VQLPIPS(perceptual_weight=0.0, codebook_weight=2.0)(codebook_loss, x, y)
    expected, _ = VQLPIPSWithDiscriminator(disc_start=1, perceptual_weight=0.0, codebook_weight=2.0, disc_ndf=8)(
        codebook_loss, x, y, 0, 0
    )
    assert torch.equal(loss, expected)
    assert set(log) == {f"train/{key}" for key in ("total_loss", "quant_loss", "nll_loss", "rec_loss", "p_loss")}


def test_lpips_without_weights_says_which_file_to_place_where(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(FileNotFoundError) as error:
        LPIPS()(x, x)
    assert str(tmp_path / "checkpoints" / lpips.VGG_FILE) in str(error.value)
    assert "no route to host" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="pretrained=False"):
        LPIPS(pretrained=False)(x, x)


def test_lpips_loads_a_placed_vgg_file_and_the_packaged_linear_layers(monkeypatch):
    source = LPIPS()
    weights = {}
    for key, value in source.net.state_dict().items():
        weights[f"features.{key.split('.', 1)[1]}"] = torch.randn_like(value) * 0.05
    weights["classifier.0.weight"] = torch.zeros(1)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: weights)
    metric = LPIPS.from_pretrained()
    assert torch.equal(metric.net.slice3[1].weight, weights["features.10.weight"])
    assert all(getattr(metric, f"lin{index}").model[1].weight.max() > 0 for index in range(5))
    x = torch.rand(1, 3, 32, 32)
    assert metric(x, x).item() == 0 and metric(x, 1 - x).item() > 0
    with pytest.raises(NotImplementedError, match="vgg_lpips"):
        LPIPS.from_pretrained("alex")


def test_weights_from_a_checkpoint_are_kept_and_second_names_dropped():
    source = filled_criterion().perceptual_loss
    state = source.state_dict() | {f"lins.{i}.model.1.weight": torch.zeros(1) for i in range(5)}
    metric = LPIPS(pretrained=False)
    metric.load_state_dict(state)
    x, y = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(metric(x, y), source(x, y))


def test_lpips_stays_in_eval_mode_and_frozen():
    metric = filled_criterion().train().perceptual_loss
    assert not any(module.training for module in metric.modules())
    assert not any(parameter.requires_grad for parameter in metric.parameters())


def test_gradient_is_finite_at_black_features():
    metric = filled_criterion().perceptual_loss
    nn.init.constant_(metric.net.slice1[0].bias, -100.0)
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    metric(x, torch.rand(1, 3, 32, 32)).sum().backward()
    assert x.grad.isfinite().all()


def test_names_that_other_packages_import_by_star():
    wanted = {"torch", "nn", "F", "LPIPS", "NLayerDiscriminator", "weights_init", "adopt_weight", "hinge_d_loss"}
    assert wanted | {"vanilla_d_loss", "DummyLoss"} <= set(vars(vqperceptual))
    assert not hasattr(vqperceptual, "__all__")


def test_codebook_loss_may_be_any_shape():
    codebook_loss = make({"values": [1.0, 2.0], "dtype": "float32"})
    x = torch.rand(1, 3, 32, 32)
    criterion = VQLPIPSWithDiscriminator(disc_start=1, perceptual_weight=0.0, disc_ndf=8)
    loss, log = criterion(codebook_loss, x, x, 0, 0)
    assert loss.item() == log["train/quant_loss"].item() == 1.5
