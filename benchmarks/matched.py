"""Ours and the peer's first stage with the same weights: building them, driving their training steps, comparing them.

Lightning takes part on neither side. `WithoutTrainer` gives both models what they ask a trainer for, and the two step
functions are the minimal loops: the one that Lightning 1.0 made around the peer's passes, and one call of ours.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

import torch
from peer import Peer
from torch import Tensor, nn

from taming.models.vqgan import VQModel
from taming.modules.losses.vqperceptual import reconstruction_terms

LOSSES = "taming.modules.losses.vqperceptual"
DISC_START = 1


class WithoutTrainer:
    """What both models need of Lightning while they train, at no cost: for the front of their bases."""

    learning_rate = 4.5e-6
    global_step = 0
    trainer = SimpleNamespace(is_last_batch=False, profiler=None)
    stepped: Sequence[torch.optim.Optimizer] = ()

    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        return self.stepped

    def toggle_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Only this optimizer's parameters get gradients (Lightning 1.0 and 2 alike)."""
        self.requires_grad_(False)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)

    def untoggle_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing: the next pass toggles again."""

    def manual_backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_gradients(self, *_) -> None: ...

    def lr_schedulers(self) -> None: ...

    def log(self, *_, **__) -> None: ...

    def log_dict(self, *_, **__) -> None: ...


class OurVQModel(WithoutTrainer, VQModel):
    """Ours."""


def our_step(model: OurVQModel, batch: Mapping, *, shared_forward: bool = False) -> None:
    """One batch: our own training step."""
    model.shared_forward = shared_forward
    model.training_step(batch, 0)


def lightning_1_step(model: WithoutTrainer, batch: Mapping) -> None:
    """One batch as Lightning 1.0 trains it: per optimizer a forward pass, its loss, backward, step."""
    for index, optimizer in enumerate(model.stepped):
        model.toggle_optimizer(optimizer)
        model.training_step(batch, 0, index).backward()
        optimizer.step()
        optimizer.zero_grad()


def f16(ch: int, *, adversarial: bool, n_embed: int = 1024) -> dict:
    """Parameters of the published VQGAN of factor 16 (there ch is 128), with its training loss or without any."""
    ddconfig = {
        "double_z": False,
        "z_channels": 256,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": ch,
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "dropout": 0.0,
    }
    params = {"disc_start": DISC_START, "disc_weight": 0.8}
    loss = {"target": f"{LOSSES}.VQLPIPSWithDiscriminator", "params": params}
    lossconfig = loss if adversarial else {"target": f"{LOSSES}.DummyLoss"}
    return {"ddconfig": ddconfig, "lossconfig": lossconfig, "n_embed": n_embed, "embed_dim": 256}


def matched_pair(peer: Peer, config: Mapping, x: Tensor) -> tuple[OurVQModel, nn.Module]:
    """Ours and the peer's model with the same weights, on the device of the images x (b, c, h, w), in training mode."""
    torch.manual_seed(0)
    ours = OurVQModel(**config)
    if hasattr(ours.loss, "perceptual_loss"):
        fill_metric(ours.loss.perceptual_loss)
    theirs = peer.build("taming.models.vqgan.VQModel", config, mixin=WithoutTrainer)
    ours.to(x.device)
    spread_codebook(ours, x)
    theirs.to(x.device).load_state_dict(ours.state_dict())
    for model in (ours, theirs):
        model.train()
        if hasattr(model.loss, "perceptual_loss"):
            model.loss.perceptual_loss.eval()  # the peer's would draw dropout, and could not be compared
            model.stepped = model.configure_optimizers()[0]
    return ours, theirs


def fill_metric(metric: nn.Module) -> None:
    """Random weights for LPIPS that neither blow its features up nor let them vanish."""
    for parameter in metric.net.parameters():
        (nn.init.kaiming_normal_ if parameter.ndim == 4 else nn.init.zeros_)(parameter)
    for index in range(metric.net.N_slices):
        nn.init.uniform_(getattr(metric, f"lin{index}").model[-1].weight)


@torch.no_grad()
def spread_codebook(model: VQModel, x: Tensor) -> None:
    """Draw the codebook from the distribution of the latents of x, so that many codes are in use, none of them tied."""
    latents = model.quant_conv(model.encoder(x)).transpose(0, 1).flatten(1)  # (d, b*h*w)
    weight = model.quantize.embedding.weight
    weight.copy_(torch.randn_like(weight) * latents.std(dim=1) + latents.mean(dim=1))


def check_training(ours: OurVQModel, theirs: nn.Module, batch: Mapping) -> dict[str, float]:
    """Relative differences of gradients (see `gradient_errors`), in float32 and in float64.

    Against the peer's autoencoder loss it is float64 that counts: in float32 rounding moves features of LPIPS across
    the kinks of ReLU, and a feature that crosses one changes its gradient by all of it. Raises AssertionError above
    5e-6 for the plain formula in float32, above 1e-4 for the rest.
    """
    errors = gradient_errors(ours, theirs, batch)
    exact = gradient_errors(*in_float64(ours, theirs), {key: value.double() for key, value in batch.items()})
    errors["loss, autoencoder, float64"] = exact["loss, autoencoder"]
    for name, error in errors.items():
        limit = {"plain formula": 5e-6, "loss, autoencoder": torch.inf}.get(name, 1e-4)
        assert error <= limit, f"gradients differ: {name}, by {error:.1e}"
    return errors


def in_float64(ours: OurVQModel, theirs: nn.Module) -> tuple[OurVQModel, nn.Module]:
    """Copies of both, with optimizers of their own."""
    copies = []
    for model in (ours, theirs):
        stepped, model.stepped = model.stepped, None
        copies.append(copy.deepcopy(model).double())
        model.stepped = stepped
        copies[-1].stepped = copies[-1].configure_optimizers()[0]
    return tuple(copies)


def gradient_errors(ours: OurVQModel, theirs: nn.Module, batch: Mapping) -> dict[str, float]:
    """Relative differences of gradients: the autoencoder's and the discriminator's from the peer's loss and, for the
    autoencoder, from the plain formula, all at the same reconstructions; and those of a smooth function of either
    autoencoder. (Between the two autoencoders rounding differs, and flips the sign of a few pixels' L1 gradient.)
    """
    x, step, layer = batch["image"].permute(0, 3, 1, 2).contiguous(), ours.global_step, ours.get_last_layer()
    autoencoder = autoencoder_of(ours)
    reconstructions, codebook_loss = ours(x)
    losses = [model.loss(codebook_loss, x, reconstructions, 0, step, last_layer=layer)[0] for model in (ours, theirs)]
    got, expected, plain = (
        flat_gradient(loss, autoencoder) for loss in (*losses, plain_loss(ours, x, reconstructions, codebook_loss))
    )
    critics = [
        flat_gradient(model.loss(codebook_loss, x, reconstructions, 1, step)[0], model.loss.discriminator.parameters())
        for model in (ours, theirs)
    ]
    smooth = [flat_gradient(smooth_function(model, x), autoencoder_of(model)) for model in (ours, theirs)]
    return {
        "loss, autoencoder": relative_error(got, expected),
        "loss, discriminator": relative_error(*critics),
        "networks": relative_error(*smooth),
        "plain formula": relative_error(got, plain),
    }


def plain_loss(model: OurVQModel, x: Tensor, reconstructions: Tensor, codebook_loss: Tensor) -> Tensor:
    """The autoencoder's loss as the formula says it, with the adaptive weight from two backward passes."""
    loss = model.loss
    nll, _ = reconstruction_terms(x, reconstructions, loss.perceptual_loss, loss.perceptual_weight)
    total = nll + loss.codebook_weight * codebook_loss.mean()
    if model.global_step < loss.discriminator_iter_start:
        return total
    g = -loss.discriminator(reconstructions).mean()
    return total + loss.calculate_adaptive_weight(nll, g, last_layer=model.get_last_layer()) * loss.disc_factor * g


def smooth_function(model: nn.Module, x: Tensor) -> Tensor:
    """Some number that depends smoothly on all weights of the autoencoder."""
    reconstructions, codebook_loss = model(x)
    return reconstructions.square().mean() + codebook_loss


def autoencoder_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the first optimizer."""
    return [parameter for group in model.stepped[0].param_groups for parameter in group["params"]]


def flat_gradient(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Gradients of all parameters in one vector; the graph stays."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(parameters), retain_graph=True)])


def relative_error(got: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float((got.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@torch.no_grad()
def check_autoencoder(ours: VQModel, theirs: nn.Module, x: Tensor) -> dict[str, float]:
    """Encode and decode the images x by both; number of codes met, and the largest difference of decoded images.

    Raises AssertionError where an index differs, or a latent by more than rtol 1e-4, atol 1e-5, or a pixel by more than
    1e-4: in float32 the peer's own pixels are up to 4e-5 away from its float64 ones.
    """
    quant, _, (_, _, indices) = ours.encode(x)
    expected, _, (_, _, expected_indices) = theirs.encode(x.contiguous())
    assert torch.equal(indices, expected_indices), "the codes differ"
    torch.testing.assert_close(quant, expected, rtol=1e-4, atol=1e-5)
    difference = float((ours.decode(quant) - theirs.decode(expected)).abs().max())
    assert difference <= 1e-4, f"decoded images differ by {difference}"
    return {"codes met": len(indices.unique()), "largest difference": difference}


@torch.no_grad()
def check_in_float64(ours: VQModel, theirs: nn.Module, x: Tensor) -> dict[str, float]:
    """The same without the rounding that hides a real difference: rtol 1e-4, atol 1e-5 hold with much room."""
    ours, theirs = (copy.deepcopy(model).double() for model in (ours, theirs))
    latents = [model.quant_conv(model.encoder(x.double())) for model in (ours, theirs)]
    images = [model.decode(latents[1]) for model in (ours, theirs)]
    for got, expected in (latents, images):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    return {name: float((a - b).abs().max()) for name, (a, b) in (("latents", latents), ("images", images))}
