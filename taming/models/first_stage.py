"""What all first stages have in common: images to codes and back, without knowing how.

b batch, (c, h, w) image, (h', w') latent grid, q codes per position: 1 unless the quantizer is residual.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from taming.models.batches import image_from_batch
from taming.modules.vqvae.base import Quantizer


class FirstStage:
    """For LightningModules with an `encoder`, a `quantize`, `encode` and `decode`."""

    @property
    def downsampling_factor(self) -> int:
        """Pixels per latent cell and side."""
        return 2 ** (self.encoder.num_resolutions - 1)

    def decode_code(self, code_b: Tensor) -> Tensor:
        """Codes (b, h', w') -> images."""
        return self.decode(self.quantize.embed_code(code_b))

    def get_input(self, batch: Mapping, k: str) -> Tensor:
        """batch[k], (b, h, w, c) or (b, h, w), as (b, c, h, w) of the weights' type."""
        return image_from_batch(batch[k]).to(dtype_of(self))

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor:
        """Images (b, c, h, w) in [-1, 1], on any device -> their codes int64 (b, h', w'), or (b, h', w', q) if q > 1.

        Raises ValueError in training mode, where a quantizer may draw its codes or move its codebook, for integers, and
        for images that `encode` refuses.
        """
        if self.training:
            raise ValueError(f"this {type(self).__name__} is in training mode: call eval() before tokenize")
        if not images.is_floating_point():
            raise ValueError(f"images are floats in [-1, 1], not {images.dtype}: v / 127.5 - 1 makes them of bytes")
        quant, _, (_, _, indices) = self.encode(images.to(self.device, dtype_of(self)))
        batch_size, _, *grid = quant.shape
        return indices.reshape(batch_size, *grid, *self._levels)  # (b*h'*w'*q,) and other forms -> (b, h', w'[, q])

    @torch.no_grad()
    def detokenize(self, codes: Tensor) -> Tensor:
        """Codes as `tokenize` gives them, on any device -> images (b, c, h, w), clamped to [-1, 1].

        Label maps are one-hot. Raises ValueError for codes of another shape or type, or that the codebook lacks.
        """
        if codes.ndim != 3 + len(self._levels) or codes.shape[3:] != self._levels or codes.is_floating_point():
            wanted = ", ".join(map(str, ("b", "h", "w", *self._levels)))
            raise ValueError(f"codes must be integers ({wanted}), not {codes.dtype} {tuple(codes.shape)}")
        images = self.decode_code(codes.to(self.device, torch.int64))
        return self._as_label_map(images).clamp(-1, 1)

    @property
    def _levels(self) -> tuple[int, ...]:
        """The axis that codes have beside batch and grid, if there is one."""
        per_position = self.quantize.tokens_per_position
        return (per_position,) if per_position > 1 else ()

    def _as_label_map(self, reconstructions: Tensor) -> Tensor:
        return reconstructions


def dtype_of(stage) -> torch.dtype:
    """What a stage computes in: the type of its first parameter; float32 if it has none, as CoordStage."""
    parameters = stage.parameters() if isinstance(stage, nn.Module) else ()
    return next((parameter.dtype for parameter in parameters), torch.float32)


def first_stage_of(model: nn.Module) -> nn.Module:
    """The model itself if it is a first stage, or that of a transformer. Raises ValueError for any other."""
    stage = getattr(model, "first_stage_model", model)
    if not isinstance(stage, FirstStage):
        raise ValueError(f"a {type(model).__name__} neither is nor has a first stage, such as a VQModel")
    return stage


def image_stage_of(model: nn.Module) -> nn.Module:
    """`first_stage_of` for images. Raises ValueError for one of label maps as well."""
    stage = first_stage_of(model)
    if stage.encoder.in_channels > 3:
        raise ValueError(
            f"this first stage reads {stage.encoder.in_channels} channels, label maps perhaps; one of images has 1 or 3"
        )
    return stage


def convert_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with floating-point weights of this type; those of codebooks have 32 bits at least, as distances do."""
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer)]
    weights = [quantizer.state_dict() for quantizer in quantizers]
    model.to(dtype)
    if dtype.itemsize < torch.float32.itemsize:
        for quantizer, state_dict in zip(quantizers, weights, strict=True):
            quantizer.float().load_state_dict(state_dict)
    return model
