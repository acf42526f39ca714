"""The first stage in training: VQGAN and its relatives (Esser et al. 2021, section 3.1)."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config import instantiate_from_config
from taming.lr_scheduler import build_schedule
from taming.models.autoencoder import VQAutoencoder
from taming.models.batches import image_from_batch
from taming.models.finite import check_finite
from taming.models.manual_optimization import TwoOptimizers
from taming.models.optimizers import can_fuse, with_schedule
from taming.modules.processes import all_reduce_sum
from taming.modules.vqvae.quantize import EMAVectorQuantizer, GumbelQuantize

EVERY = {"logger": True, "on_step": True, "on_epoch": True}
"""How training logs: each step, and the mean of the epoch."""


class VQModel(TwoOptimizers, VQAutoencoder):
    """VQGAN: an autoencoder trained against a patch discriminator that lives in the loss.

    shared_forward shows the discriminator the reconstruction that the autoencoder's step has made, instead of a new
    one by the updated autoencoder: one forward pass less per batch. scheduler_config: the target config of the
    schedule of both learning rates, see `build_schedule`. The other parameters are explained in VQAutoencoder.
    """

    def on_fit_start(self) -> None:
        if self.compile_networks:
            backend = "inductor" if self.compile_networks is True else self.compile_networks
            for network in (self.encoder, self.decoder, *self.loss.children()):
                network.compile(backend=backend)

    def _reconstruct(self, batch: Mapping, split: str) -> tuple[Tensor, Tensor, Tensor]:
        """Images of a batch, their reconstructions and the codebook loss; the codes are counted."""
        x = self.get_input(batch, self.image_key)
        reconstructions, codebook_loss, indices = self(x, return_pred_indices=True)
        self.count_codes(split, indices)
        return x, reconstructions, codebook_loss

    def training_step(self, batch: Mapping, batch_idx: int) -> None:
        """Autoencoder step, then discriminator step on a new forward by the updated autoencoder (or the shared one)."""
        step = self.global_step
        optimize = self.optimizer_round(batch_idx)
        with optimize(0) as backward:
            x, reconstructions, codebook_loss = self._reconstruct(batch, "train")
            self._learn(backward, codebook_loss, x, reconstructions, 0, step)
        if not self.shared_forward:
            with torch.no_grad(), self.quantize.frozen():
                reconstructions, codebook_loss = self(x)
        with optimize(1) as backward:
            self._learn(backward, codebook_loss.detach(), x, reconstructions.detach(), 1, step)
        self.step_schedulers(batch_idx)

    def _learn(
        self,
        backward: Callable[[Tensor], None],
        codebook_loss: Tensor,
        x: Tensor,
        reconstructions: Tensor,
        optimizer_idx: int,
        step: int,
    ) -> None:
        """One optimizer's loss of a training batch, and its gradients. Raises NonFiniteError if it is not finite."""
        loss, log = self.loss(
            codebook_loss, x, reconstructions, optimizer_idx, step, last_layer=self.get_last_layer(), split="train"
        )
        self._stop_if_not_finite(log, x, step)
        backward(loss)
        self._log_training(loss.detach(), log, optimizer_idx)  # milliseconds, in which a device is not to be idle

    def _stop_if_not_finite(self, log: Mapping[str, Tensor], x: Tensor, step: int) -> None:
        check_finite(self, log, step=step, inputs={self.image_key: x})

    def _log_training(self, loss: Tensor, log: Mapping[str, Tensor], optimizer_idx: int) -> None:
        self.log(("train/aeloss", "train/discloss")[optimizer_idx], loss, prog_bar=True, **EVERY)
        self.log_dict(log, prog_bar=False, **EVERY)

    def validation_step(self, batch: Mapping, batch_idx: int) -> dict[str, Tensor]:
        """Both losses of a validation batch, logged once each under `val/...`."""
        x, reconstructions, codebook_loss = self._reconstruct(batch, "val")
        last_layer, step = self.get_last_layer(), self.global_step
        aeloss, log = self.loss(codebook_loss, x, reconstructions, 0, step, last_layer=last_layer, split="val")
        _, disc_log = self.loss(codebook_loss, x, reconstructions, 1, step, last_layer=last_layer, split="val")
        self._stop_if_not_finite(log | disc_log, x, step)
        shown = {"val/rec_loss": log.pop("val/rec_loss"), "val/aeloss": aeloss.detach()}
        self._rec_losses.append(shown["val/rec_loss"])
        self._log_validation(shown, log | disc_log)
        return shown | log | disc_log

    def _log_validation(self, shown: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
        self.log_dict(shown, prog_bar=True, sync_dist=True, **EVERY)
        self.log_dict(others, prog_bar=False, sync_dist=True, **EVERY)

    def on_train_epoch_end(self) -> None:
        self.log_codebook_health("train")

    def on_validation_epoch_start(self) -> None:
        self._rec_losses: list[Tensor] = []

    def on_validation_epoch_end(self) -> None:
        self.log_codebook_health("val")
        if self._rec_losses and hasattr(self.loss, "observe_validation") and not self.trainer.sanity_checking:
            losses = torch.stack(self._rec_losses)
            total, count = all_reduce_sum(torch.stack([losses.sum(), torch.ones_like(losses).sum()])).tolist()
            self.loss.observe_validation(total / count, self.global_step)

    def _autoencoder_parameters(self) -> list[nn.Parameter]:
        """What the autoencoder's optimizer trains, in the published order."""
        parts = (self.encoder, self.decoder, self.quantize, self.quant_conv, self.post_quant_conv)
        return [p for part in parts for p in part.parameters() if p.requires_grad]

    def _adam(self, parameters) -> torch.optim.Adam:
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.5, 0.9), fused=can_fuse(self))

    def configure_optimizers(self):
        """Adam for the autoencoder and Adam for the discriminator (published order of parameters)."""
        optimizers = [self._adam(self._autoencoder_parameters()), self._adam(self.loss.discriminator.parameters())]
        if self.scheduler_config is None:
            return optimizers, []
        return optimizers, [build_schedule(optimizer, self.scheduler_config) for optimizer in optimizers]


class EMAVQ(VQModel):
    """VQModel whose codebook follows its vectors by running means: see EMAVectorQuantizer for the four options here.

    The other parameters are VQModel's, without effect of `legacy`.
    """

    def __init__(
        self,
        *args,
        decay: float = 0.99,
        eps: float = 1e-5,
        kmeans_init: bool = False,
        revive_threshold: float = 0.0,
        **kwargs,
    ) -> None:
        self._ema_options = {
            "decay": decay,
            "eps": eps,
            "kmeans_init": kmeans_init,
            "revive_threshold": revive_threshold,
        }
        super().__init__(*args, **kwargs)

    def _build_quantizer(self, n_embed: int, embed_dim: int, *, legacy: bool, **options) -> nn.Module:
        return EMAVectorQuantizer(n_embed, embed_dim, **options, **self._ema_options)


class GumbelVQ(VQModel):
    """VQModel whose codes are drawn by Gumbel-softmax at a temperature that a schedule over the steps sets.

    temperature_scheduler_config: a target config of a function of the step.
    """

    def __init__(
        self,
        ddconfig: Mapping,
        lossconfig: Mapping,
        n_embed: int,
        embed_dim: int,
        temperature_scheduler_config: Mapping,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        colorize_nlabels: int | None = None,
        monitor: str | None = None,
        kl_weight: float = 1e-8,
        remap: str | None = None,
        **kwargs,
    ) -> None:
        self._kl_weight = kl_weight
        stored = {"ckpt_path": ckpt_path, "ignore_keys": ignore_keys}
        shown = {"image_key": image_key, "colorize_nlabels": colorize_nlabels, "monitor": monitor}
        super().__init__(ddconfig, lossconfig, n_embed, embed_dim, **stored, **shown, remap=remap, **kwargs)
        self.loss.n_classes = n_embed
        self.vocab_size = n_embed
        self.temperature_scheduler = instantiate_from_config(temperature_scheduler_config)

    def _build_quantizer(self, n_embed: int, embed_dim: int, *, remap: str | None, **options) -> nn.Module:
        return GumbelQuantize(embed_dim, embed_dim, n_embed, kl_weight=self._kl_weight, temp_init=1.0, remap=remap)

    def temperature_scheduling(self) -> None:
        """Set the quantizer's temperature for the present step."""
        self.quantize.temperature = self.temperature_scheduler(self.global_step)

    def encode_to_prequant(self, x: Tensor) -> Tensor:
        """Images -> what the quantizer reads (b, d, h', w')."""
        return self.quant_conv(self.encoder(x))

    def training_step(self, batch: Mapping, batch_idx: int) -> None:
        self.temperature_scheduling()
        super().training_step(batch, batch_idx)

    def _log_training(self, loss: Tensor, log: Mapping[str, Tensor], optimizer_idx: int) -> None:
        self.log_dict(log, prog_bar=False, **EVERY)
        if optimizer_idx == 0:
            self.log("temperature", self.quantize.temperature, prog_bar=False, **EVERY)

    def _log_validation(self, shown: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
        self.log_dict(shown, prog_bar=True, logger=True, on_step=False, on_epoch=True, sync_dist=True)
        self.log_dict(others, prog_bar=False, sync_dist=True, **EVERY)

    def log_images(self, batch: Mapping, **kwargs) -> dict[str, Tensor]:
        """Inputs and reconstructions, uncoloured."""
        x = self.get_input(batch, self.image_key).to(self.device)
        with torch.no_grad():
            return {"inputs": x, "reconstructions": self(x)[0]}


class VQNoDiscModel(VQModel):
    """VQModel with one optimizer: its loss has no discriminator, or one that is never trained.

    The loss is called with (codebook_loss, x, reconstructions) and those of optimizer_idx, global_step, last_layer and
    split that it asks for; one that asks for optimizer_idx is told a step before any disc_start.
    """

    automatic_optimization = True

    def _one_loss(self, batch: Mapping, split: str) -> tuple[Tensor, dict[str, Tensor]]:
        x, reconstructions, codebook_loss = self._reconstruct(batch, split)
        loss, log = self.loss(codebook_loss, x, reconstructions, **self._loss_options(split))
        self._stop_if_not_finite({f"{split}/loss": loss.mean(), **log}, x, self.global_step)
        return loss, log

    def _loss_options(self, split: str) -> dict:
        asked = inspect.signature(self.loss.forward).parameters
        step = -1 if "optimizer_idx" in asked else self.global_step
        options = {"optimizer_idx": 0, "global_step": step, "last_layer": self.get_last_layer(), "split": split}
        return {name: value for name, value in options.items() if name in asked}

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        loss, log = self._one_loss(batch, "train")
        self.log("train/aeloss", loss.detach(), prog_bar=True, **EVERY)
        self.log_dict(log, prog_bar=False, **EVERY)
        return loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> dict[str, Tensor]:
        loss, log = self._one_loss(batch, "val")
        quality = next(name for name in ("val/rec_loss", "val/total_loss") if name in log)
        shown = {quality: log.pop(quality), "val/aeloss": loss.detach()}
        self._log_validation(shown, log)
        return shown | log

    def configure_optimizers(self):
        """Adam for the autoencoder."""
        return with_schedule(self._adam(self._autoencoder_parameters()), self.scheduler_config)


class VQSegmentationModel(VQNoDiscModel):
    """Autoencoder of label maps, one-hot (b, n_labels, h, w): the conditioning stage of segmentation models."""

    def __init__(self, n_labels: int, *args, **kwargs) -> None:
        super().__init__(*args, **{**kwargs, "colorize_nlabels": n_labels})

    def training_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        loss, log = self._one_loss(batch, "train")
        self.log_dict(log, **EVERY)
        return loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> Tensor:
        loss, log = self._one_loss(batch, "val")
        self._log_validation({"val/total_loss": log.pop("val/total_loss")}, log)
        return loss

    def _as_label_map(self, reconstructions: Tensor) -> Tensor:
        """One-hot of the most likely label."""
        one_hot = F.one_hot(reconstructions.argmax(dim=1), reconstructions.shape[1])  # (b, h, w, n_labels)
        return image_from_batch(one_hot).float()
