"""The first stage without its training: encoder, quantizer, decoder (Esser et al. 2021, section 3.1).

b batch, (c, h, w) image, (d, h', w') latent grid, n codes of the batch in row-major order.
"""

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.checkpoint import load_checkpoint, load_weights
from taming.config import check_keywords, instantiate_from_config
from taming.models.codebook_health import CodebookHealth
from taming.models.first_stage import FirstStage
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.build import build_quantizer
from taming.modules.vqvae.quantize import VectorQuantizer2


class VQAutoencoder(CodebookHealth, FirstStage, pl.LightningModule):
    """Encoder, vector quantizer and decoder, with a loss that subclasses train by.

    shared_forward and scheduler_config are theirs. quantizer_config: a target config of another Quantizer, which is
    given those of n_embed, embed_dim, beta and the others that its parameters ask for. channels_last: weights in the
    memory format that convolutions are faster in on most devices. compile: torch.compile for the networks in training,
    true or the name of a backend.
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
        quantizer_config: Mapping | None = None,
        channels_last: bool = False,
        compile: bool | str = False,
    ) -> None:
        super().__init__()
        self.image_key = image_key
        self.shared_forward = shared_forward
        self.scheduler_config = scheduler_config
        self.compile_networks = compile
        if monitor is not None:
            self.monitor = monitor
        check_keywords(Decoder, ddconfig, "ddconfig")
        self.encoder = Encoder(**ddconfig)
        self.decoder = Decoder(**ddconfig)
        self.loss = instantiate_from_config(lossconfig)
        options = {"beta": beta, "remap": remap, "sane_index_shape": sane_index_shape, "legacy": legacy}
        if quantizer_config is None:
            self.quantize = self._build_quantizer(n_embed, embed_dim, **options)
        else:
            self.quantize = build_quantizer(quantizer_config, n_embed, embed_dim, **options)
        self.quant_conv = nn.Conv2d(ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)
        if colorize_nlabels is not None:
            self.register_buffer("colorize", torch.randn(3, colorize_nlabels, 1, 1))
        if channels_last:
            self.to(memory_format=torch.channels_last)
        if ckpt_path is not None:
            self.init_from_ckpt(ckpt_path, ignore_keys=ignore_keys)

    def _build_quantizer(self, n_embed: int, embed_dim: int, **options) -> nn.Module:
        return VectorQuantizer2(n_embed, embed_dim, **options)

    def init_from_ckpt(self, path: str, ignore_keys: Sequence[str] = ()):
        """Load a checkpoint's weights but for keys that begin with one of `ignore_keys`; reports what is missing."""
        return load_weights(self, load_checkpoint(path)["state_dict"], ignore_keys=ignore_keys, source=path)

    def encode(self, x: Tensor):
        """Images (b, c, h, w) -> quantized latents (b, d, h', w'), codebook loss, (perplexity, encodings, indices).

        h' and w' are h and w divided by the downsampling factor, rounded down. Raises ValueError for another number of
        channels, an image smaller than the factor and, outside training, for values that are not finite.
        """
        self._check_images(x)
        return self.quantize(self.quant_conv(self.encoder(x)))

    def _check_images(self, x: Tensor) -> None:
        factor, channels = self.downsampling_factor, self.encoder.in_channels
        if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < factor:
            raise ValueError(
                f"images of shape {tuple(x.shape)}: this model reads (b, {channels}, h, w), h and w at least {factor}"
            )
        if not self.training and not x.isfinite().all():  # in training the loss is looked at instead
            raise ValueError("the images hold values that are NaN or infinite")

    def decode(self, quant: Tensor) -> Tensor:
        """Quantized latents (b, d, h', w') -> images (b, c, h, w), unclamped."""
        return self.decoder(self.post_quant_conv(quant.to(self.post_quant_conv.weight.dtype)))  # codebooks are float32

    def forward(self, input: Tensor, return_pred_indices: bool = False):
        """Images -> (reconstructions, codebook loss), and the indices if asked for.

        Raises ValueError for a height or width that the downsampling factor does not divide: the reconstruction would
        have another size.
        """
        factor = self.downsampling_factor
        if input.shape[-2] % factor or input.shape[-1] % factor:
            raise ValueError(
                f"images of {input.shape[-2]} x {input.shape[-1]} pixels: height and width must be multiples of "
                f"{factor}, the downsampling factor of this model; crop or resize them"
            )
        quant, codebook_loss, (_, _, indices) = self.encode(input)
        reconstructions = self.decode(quant)
        return (reconstructions, codebook_loss, indices) if return_pred_indices else (reconstructions, codebook_loss)

    def get_last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight

    @torch.no_grad()
    def log_images(self, batch: Mapping, **kwargs) -> dict[str, Tensor]:
        """Inputs and reconstructions; label maps of more than three channels are coloured."""
        x = self.get_input(batch, self.image_key).to(self.device)
        reconstructions, _ = self(x)
        if x.shape[1] > 3:
            assert reconstructions.shape[1] > 3, "label maps need a reconstruction of as many channels"
            x, reconstructions = self.to_rgb(x), self.to_rgb(self._as_label_map(reconstructions))
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
