"""The training losses of VQGANs: reconstruction, perceptual and adversarial terms (Esser et al. 2021, eqs. 4-7).

Other packages rely on `from ... import *` to bring torch, nn, F, LPIPS, NLayerDiscriminator and weights_init.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.modules.discriminator.model import NLayerDiscriminator, weights_init
from taming.modules.losses.auto_start import AutoStart
from taming.modules.losses.lpips import LPIPS
from taming.modules.processes import all_reduce_mean
from taming.modules.util import at_least_float32

GRADIENT_SCALE = 2.0**12
"""Keeps the gradients at a reconstruction in half precision from vanishing; a power of two, so float32 is unchanged."""


class DummyLoss(nn.Module):
    """The loss of models that are not trained."""


def adopt_weight(weight: float, global_step: int, threshold: int = 0, value: float = 0.0) -> float:
    """`value` before step `threshold`, `weight` from then on."""
    return value if global_step < threshold else weight


def hinge_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Half the mean hinge loss of the discriminator on real and generated images (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1.0 - logits_real).mean() + F.relu(1.0 + logits_fake).mean())


def vanilla_d_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """Half the mean binary cross entropy of the discriminator on real and generated images."""
    return 0.5 * (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())


class ScalarWithGradient(torch.autograd.Function):
    """`value` as a function of x whose gradient has been computed already: the backward pass only hands it on."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = x.dtype
        return value.clone()

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        (gradient,) = ctx.saved_tensors
        return (grad_output * gradient).to(ctx.dtype), None, None


class VQLPIPSWithDiscriminator(nn.Module):
    """L1 + LPIPS + codebook loss, and from step `disc_start` an adversarial term of adaptive weight.

    optimizer_idx 0 is the autoencoder's pass, 1 the discriminator's. `pixelloss_weight` never had an effect.

    disc_start may be "auto": once validation reconstruction has stopped improving (see AutoStart). disc_warmup: for so
    many steps from then on the discriminator learns before the autoencoder meets it. max_d_weight bounds the adaptive
    weight before it is multiplied by disc_weight.
    """

    def __init__(
        self,
        disc_start: int | str,
        codebook_weight: float = 1.0,
        pixelloss_weight: float = 1.0,
        disc_num_layers: int = 3,
        disc_in_channels: int = 3,
        disc_factor: float = 1.0,
        disc_weight: float = 1.0,
        perceptual_weight: float = 1.0,
        use_actnorm: bool = False,
        disc_conditional: bool = False,
        disc_ndf: int = 64,
        disc_loss: str = "hinge",
        disc_warmup: int = 0,
        max_d_weight: float = 1e4,
        disc_patience: int = 3,
    ) -> None:
        super().__init__()
        losses = {"hinge": hinge_d_loss, "vanilla": vanilla_d_loss}
        assert disc_loss in losses, f"disc_loss is '{disc_loss}'; there are {sorted(losses)}"
        self.codebook_weight = codebook_weight
        self.pixel_weight = pixelloss_weight
        self.perceptual_loss = LPIPS().eval()
        self.perceptual_weight = perceptual_weight
        self.discriminator = NLayerDiscriminator(
            input_nc=disc_in_channels, n_layers=disc_num_layers, use_actnorm=use_actnorm, ndf=disc_ndf
        ).apply(weights_init)
        if disc_start == "auto":
            self.auto_start = AutoStart(patience=disc_patience)
        elif isinstance(disc_start, str):
            raise ValueError(f"disc_start is '{disc_start}'; it is a step or auto")
        else:
            self.discriminator_iter_start = disc_start
        self.disc_warmup = disc_warmup
        self.max_d_weight = max_d_weight
        self.disc_loss = losses[disc_loss]
        self.disc_factor = disc_factor
        self.discriminator_weight = disc_weight
        self.disc_conditional = disc_conditional

    def observe_validation(self, rec_loss: float, step: int) -> None:
        """Tell the mean reconstruction loss of a validation run at `step`; it matters for disc_start: auto."""
        if hasattr(self, "auto_start"):
            self.auto_start.observe(rec_loss, step)

    def _start(self) -> int:
        return self.auto_start.step if hasattr(self, "auto_start") else self.discriminator_iter_start

    def forward(
        self,
        codebook_loss: Tensor,
        inputs: Tensor,
        reconstructions: Tensor,
        optimizer_idx: int,
        global_step: int,
        last_layer: Tensor | None = None,
        cond: Tensor | None = None,
        split: str = "train",
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (b, c, h, w) in [-1, 1] -> the loss of one optimizer, and scalars to log under `{split}/...`.

        last_layer: weight of the decoder's last convolution, for the adaptive weight. cond (b, c', h, w): shown to a
        discriminator built with disc_conditional.
        """
        assert (cond is not None) == self.disc_conditional, "cond belongs to disc_conditional=True, and only there"
        threshold = self._start() + (self.disc_warmup if optimizer_idx == 0 else 0)
        factor = adopt_weight(self.disc_factor, global_step, threshold=threshold)
        if optimizer_idx == 0:
            return self._generator_loss(codebook_loss, inputs, reconstructions, factor, last_layer, cond, split)
        return self._discriminator_loss(inputs, reconstructions, factor, cond, split)

    def _generator_loss(self, codebook_loss, inputs, reconstructions, factor, last_layer, cond, split):
        zero = torch.zeros((), device=inputs.device)
        terms = {"nll": zero, "p": zero, "g": zero, "d_weight": zero}

        def nll_term(x: Tensor) -> Tensor:
            terms["nll"], terms["p"] = reconstruction_terms(inputs, x, self.perceptual_loss, self.perceptual_weight)
            return terms["nll"]

        def g_term(x: Tensor) -> Tensor:
            terms["g"] = -self._judge(x, cond).mean()
            return terms["g"]

        if factor == 0:
            image_loss = nll_term(reconstructions)
        else:
            image_loss, terms["d_weight"] = self._adversarial(nll_term, g_term, reconstructions, factor, last_layer)
        codebook = codebook_loss.mean()
        loss = image_loss + self.codebook_weight * codebook
        log = {
            "total_loss": loss,
            "quant_loss": codebook,
            "nll_loss": terms["nll"],
            "rec_loss": terms["nll"],
            "p_loss": terms["p"],
            "d_weight": terms["d_weight"],
            "disc_factor": torch.tensor(float(factor), device=inputs.device),
            "g_loss": terms["g"],
        }
        return loss, {f"{split}/{key}": value.detach().mean() for key, value in log.items()}

    def _adversarial(
        self,
        nll_term: Callable[[Tensor], Tensor],
        g_term: Callable[[Tensor], Tensor],
        reconstructions: Tensor,
        factor: float,
        last_layer: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """nll + w * factor * g and the adaptive weight w, with one backward through LPIPS and one through D.

        Both gradients are taken at the reconstruction. They give the last layer's two weight gradients, hence w, and
        their weighted sum is what the returned loss sends through the decoder.
        """
        if last_layer is None:
            raise ValueError("the adaptive weight needs last_layer, the weight of the decoder's last convolution")
        if not (torch.is_grad_enabled() and reconstructions.requires_grad):
            if self.training:
                raise RuntimeError("the adaptive weight needs gradients, but the reconstruction has none")
            weight = torch.zeros((), device=reconstructions.device)
            return nll_term(reconstructions) + weight * factor * g_term(reconstructions), weight
        image = at_least_float32(reconstructions.detach()).requires_grad_()
        nll, g = nll_term(image), g_term(image)
        nll_gradient, g_gradient = (torch.autograd.grad(term * GRADIENT_SCALE, image)[0] for term in (nll, g))
        weight = self._adaptive_weight(
            *(gradient_at(reconstructions, last_layer, at_image) for at_image in (nll_gradient, g_gradient))
        )
        value = (nll + weight * factor * g).detach()
        gradient = (nll_gradient + weight * factor * g_gradient) / GRADIENT_SCALE
        return ScalarWithGradient.apply(reconstructions, value, gradient), weight

    def calculate_adaptive_weight(self, nll_loss: Tensor, g_loss: Tensor, last_layer: Tensor | None = None) -> Tensor:
        """Weight that balances both gradients at the decoder's last layer (eq. 7), by two backward passes.

        The plain twin of what the generator pass does. Keeps the graph.
        """
        if last_layer is None:
            raise ValueError("the adaptive weight needs last_layer, the weight of the decoder's last convolution")
        gradients = (torch.autograd.grad(term, last_layer, retain_graph=True)[0] for term in (nll_loss, g_loss))
        return self._adaptive_weight(*gradients)

    def _adaptive_weight(self, nll_gradient: Tensor, g_gradient: Tensor) -> Tensor:
        """Processes that train together take the gradients of the mean over all their batches.

        Each would have its own weight otherwise, and the step would be none that a single process could make.
        """
        if self.training:
            nll_gradient, g_gradient = all_reduce_mean(torch.stack((nll_gradient, g_gradient)))
        weight = nll_gradient.norm() / (g_gradient.norm() + 1e-4)
        return weight.clamp(0.0, self.max_d_weight).detach() * self.discriminator_weight

    def _discriminator_loss(self, inputs, reconstructions, factor, cond, split):
        with torch.set_grad_enabled(torch.is_grad_enabled() and factor != 0):
            logits_real = self._judge(inputs.detach(), cond)
            logits_fake = self._judge(reconstructions.detach(), cond)
        loss = factor * self.disc_loss(logits_real, logits_fake) if factor != 0 else self._zero_loss()
        log = {"disc_loss": loss, "logits_real": logits_real, "logits_fake": logits_fake}
        return loss, {f"{split}/{key}": value.detach().mean() for key, value in log.items()}

    def _zero_loss(self) -> Tensor:
        """0 with gradients of 0: the discriminator's optimizer counts its steps before disc_start too."""
        return sum((0.0 * parameter.sum() for parameter in self.discriminator.parameters()), start=0.0)

    def _judge(self, images: Tensor, cond: Tensor | None) -> Tensor:
        return self.discriminator(images if cond is None else torch.cat((images, cond), dim=1))


def gradient_at(output: Tensor, parameter: Tensor, scaled_gradient: Tensor) -> Tensor:
    """The gradient at `parameter` for GRADIENT_SCALE times that at `output`, in at least float32. Keeps the graph."""
    (gradient,) = torch.autograd.grad(output, parameter, scaled_gradient.to(output.dtype), retain_graph=True)
    return at_least_float32(gradient) / GRADIENT_SCALE


class VQLPIPS(nn.Module):
    """L1 + LPIPS + codebook loss, without a discriminator."""

    def __init__(
        self, codebook_weight: float = 1.0, pixelloss_weight: float = 1.0, perceptual_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.codebook_weight = codebook_weight
        self.pixel_weight = pixelloss_weight
        self.perceptual_loss = LPIPS().eval()
        self.perceptual_weight = perceptual_weight

    def forward(
        self,
        codebook_loss: Tensor,
        inputs: Tensor,
        reconstructions: Tensor,
        global_step: int = 0,
        split: str = "train",
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (b, c, h, w) in [-1, 1] -> the loss, and scalars to log under `{split}/...`."""
        nll, p = reconstruction_terms(inputs, reconstructions, self.perceptual_loss, self.perceptual_weight)
        codebook = codebook_loss.mean()
        loss = nll + self.codebook_weight * codebook
        log = {"total_loss": loss, "quant_loss": codebook, "nll_loss": nll, "rec_loss": nll, "p_loss": p}
        return loss, {f"{split}/{key}": value.detach() for key, value in log.items()}


def reconstruction_terms(
    inputs: Tensor, reconstructions: Tensor, metric: nn.Module, perceptual_weight: float
) -> tuple[Tensor, Tensor]:
    """Mean of |inputs - reconstructions| + perceptual_weight * LPIPS, and the mean LPIPS; weight 0 runs no LPIPS."""
    difference = (inputs - reconstructions).abs().mean()
    if perceptual_weight <= 0:
        return difference, torch.zeros((), device=inputs.device)
    perceptual = metric(inputs, reconstructions).mean()
    return difference + perceptual_weight * perceptual, perceptual
