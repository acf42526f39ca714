"""The first stage: image autoencoders with a discrete bottleneck (Esser et al. 2021, section 3.1).

b batch, (c, h, w) image, (d, h', w') latent grid, n codes of the batch in row-major order.
"""

import logging
from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.checkpoint import load_checkpoint, load_weights
from taming.config import check_keywords, instantiate_from_config
from taming.lr_scheduler import lambda_lr
from taming.models.batches import image_from_batch
from taming.models.manual_optimization import TwoOptimizers
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import EMAVectorQuantizer, VectorQuantizer2

logger = logging.getLogger(__name__)


class VQModel(TwoOptimizers, pl.LightningModule):
    """VQGAN: encoder, vector quantizer and decoder, trained against a patch discriminator that lives in the loss.

    shared_forward shows the discriminator the reconstruction that the autoencoder's step has made, instead of a new
    one by the updated autoencoder: one forward pass less per batch. scheduler_config: a target config of a function of
    the step that multiplies both learning rates.
    """

    def __init__(
        self,
        ddconfig: Mapping,
        lossconfig: Mapping,
        n_embed: int,
        embed_dim: int,
        ckpt_path: str | None = None,
        ignore_keys: Sequence[str] = (),
        image_key: str = "image",
        colorize_nlabels: int | None = None,
        monitor: str | None = None,
        remap: str | None = None,
        sane_index_shape: bool = False,
        beta: float = 0.25,
        legacy: bool = True,
        shared_forward: bool = False,
        scheduler_config: Mapping | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.image_key = image_key
        self.shared_forward = shared_forward
        self.scheduler_config = scheduler_config
        if monitor is not None:
            self.monitor = monitor
        check_keywords(Decoder, ddconfig, "ddconfig")
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        self.loss = instantiate_from_config(lossconfig)
        self.quantize = self._build_quantizer(
            n_embed, embed_dim, beta=beta, remap=remap, sane_index_shape=sane_index_shape, legacy=legacy
        )
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if colorize_nlabels is not None:
            self.register_buffer("colorize", torch.randn(3, colorize_nlabels, 1, 1))
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys=ignore_keys)

    def _build_quantizer(self, n_embed: int, embed_dim: int, **options) -> nn.Module:
        return VectorQuantizer2(n_embed, embed_dim, **options)

    def init_from_ckpt(self, path: str, ignore_keys: Sequence[str] = ()):
        """Load a checkpoint's weights but for keys that begin with one of `ignore_keys`; reports what is missing."""
        return load_weights(self, load_checkpoint(path)["state_dict"], ignore_keys=ignore_keys, source=path)

    def encode(self, x: Tensor):
        """Images (b, c, h, w) -> quantized latents (b, d, h', w'), codebook loss, (perplexity, encodings, indices)."""
        return self.quantize(self.quant_conv(self.encoder(x)))

    def decode(self, quant: Tensor) -> Tensor:
        """Quantized latents (b, d, h', w') -> images (b, c, h, w), unclamped."""
        return self.decoder(self.post_quant_conv(quant))

    def decode_code(self, code_b: Tensor) -> Tensor:
        """Codes (b, h', w') -> images."""
        return self.decode(self.quantize.embed_code(code_b))

    def forward(self, input: Tensor, return_pred_indices: bool = False):
        """Images -> (reconstructions, codebook loss), and the indices if asked for."""
        quant, codebook_loss, (_, _, indices) = self.encode(input)
        reconstructions = self.decode(quant)
        return (reconstructions, codebook_loss, indices) if return_pred_indices else (reconstructions, codebook_loss)

    def get_input(self, batch: Mapping, k: str) -> Tensor:
        """batch[k], (b, h, w, c) or (b, h, w), as float32 (b, c, h, w)."""
        return image_from_batch(batch[k]).float()

    def get_last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight

    def training_step(self, batch: Mapping, batch_idx: int) -> None:
        """Autoencoder step, then discriminator step on a new forward by the updated autoencoder (or the shared one)."""
        step = self.global_step
        optimize = self.optimizer_round(batch_idx)
        x = self.get_input(batch, self.image_key)
        with optimize(0) as backward:
            reconstructions, codebook_loss = self(x)
            backward(self._loss(codebook_loss, x, reconstructions, 0, step))
        if not self.shared_forward:
            with torch.no_grad():
                reconstructions, codebook_loss = self._forward_unchanged(x)
        with optimize(1) as backward:
            backward(self._loss(codebook_loss.detach(), x, reconstructions.detach(), 1, step))
        self.step_schedulers(batch_idx)

    def _forward_unchanged(self, x: Tensor):
        """A forward pass that leaves no trace in the model."""
        return self(x)

    def _loss(self, codebook_loss: Tensor, x: Tensor, reconstructions: Tensor, optimizer_idx: int, step: int) -> Tensor:
        """One optimizer's loss of a training batch, logged."""
        loss, log = self.loss(
            codebook_loss, x, reconstructions, optimizer_idx, step, last_layer=self.get_last_layer(), split="train"
        )
        name = ("train/aeloss", "train/discloss")[optimizer_idx]
        self.log(name, loss.detach(), prog_bar=True, logger=True, on_step=True, on_epoch=True)
        self.log_dict(log, prog_bar=False, logger=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> dict[str, Tensor]:
        """Both losses of a validation batch, logged once each under `val/...`."""
        x = self.get_input(batch, self.image_key)
        reconstructions, codebook_loss = self(x)
        last_layer, step = self.get_last_layer(), self.global_step
        aeloss, log = self.loss(codebook_loss, x, reconstructions, 0, step, last_layer=last_layer, split="val")
        _, disc_log = self.loss(codebook_loss, x, reconstructions, 1, step, last_layer=last_layer, split="val")
        shown = {"val/rec_loss": log.pop("val/rec_loss"), "val/aeloss": aeloss.detach()}
        options = {"logger": True, "on_step": True, "on_epoch": True, "sync_dist": True}
        self.log_dict(shown, prog_bar=True, **options)
        self.log_dict(log | disc_log, prog_bar=False, **options)
        return shown | log | disc_log

    def configure_optimizers(self):
        """Adam for the autoencoder and Adam for the discriminator (published order of parameters)."""
        parts = (self.encoder, self.decoder, self.quantize, self.quant_conv, self.post_quant_conv)
        trained = [p for part in parts for p in part.parameters() if p.requires_grad]
        optimizers = [
            torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.5, 0.9))
            for parameters in (trained, self.loss.discriminator.parameters())
        ]
        if self.scheduler_config is None:
            return optimizers, []
        return optimizers, [lambda_lr(optimizer, self.scheduler_config) for optimizer in optimizers]

    @torch.no_grad()
    def log_images(self, batch: Mapping, **kwargs) -> dict[str, Tensor]:
        """Inputs and reconstructions; label maps of more than three channels are coloured."""
        x = self.get_input(batch, self.image_key).to(self.device)
        reconstructions, _ = self(x)
        if x.shape[1] > 3:
            assert reconstructions.shape[1] > 3, "label maps need a reconstruction of as many channels"
            x, reconstructions = self.to_rgb(x), self.to_rgb(reconstructions)
        return {"inputs": x, "reconstructions": reconstructions}

    def to_rgb(self, x: Tensor) -> Tensor:
        """Label maps (b, n_labels, h, w) -> colours (b, 3, h, w) in [-1, 1] by a random projection."""
        assert self.image_key == "segmentation", "only label maps are coloured"
        if not hasattr(self, "colorize"):
            self.register_buffer("colorize", torch.randn(3, x.shape[1], 1, 1, device=x.device), persistent=False)
        y = F.conv2d(x, self.colorize)
        return 2.0 * (y - y.min()) / (y.max() - y.min()) - 1.0

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Take the colours of a checkpoint even where the config does not ask for any."""
        palette = state_dict.get(f"{prefix}colorize")
        if palette is not None and not hasattr(self, "colorize"):
            self.register_buffer("colorize", torch.empty_like(palette))
        super()._load_from_state_dict(state_dict, prefix, *args)


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

    def _forward_unchanged(self, x: Tensor):
        """One batch is one step of the running means, however often it is read."""
        self.quantize.embedding.update = False
        try:
            return self(x)
        finally:
            self.quantize.embedding.update = True
