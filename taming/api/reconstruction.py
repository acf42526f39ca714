"""Images through a first stage and back."""

import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from taming.api.inputs import ImageSource, square_image
from taming.cli import select_device
from taming.images import from_uint8, save_png, to_uint8
from taming.models.first_stage import dtype_of, first_stage_of

logger = logging.getLogger(__name__)


class Reconstruction:
    """Encodes and decodes images with a first stage, or with that of a transformer.

    The image is scaled (Lanczos) until its shorter side is `image_size`, and cropped to a square at the centre. device
    "auto" is CUDA, else MPS, else the CPU; the model moves there.

    >>> import numpy, taming
    >>> small = {"ch": 8, "ch_mult": [1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "resolution": 32}
    >>> reconstruct = taming.Reconstruction(taming.vqgan_imagenet_f16_1024(n_embed=64, ddconfig=small), device="cpu")
    >>> reconstruct.image_size
    32
    >>> reconstruct(numpy.zeros((40, 50, 3), dtype="uint8"), "reconstruction.png").shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, model: nn.Module, device: str | torch.device = "auto") -> None:
        self.model = first_stage_of(model).to(select_device(str(device))).eval()
        channels = self.model.encoder.in_channels
        if channels != 3:
            raise ValueError(f"Reconstruction needs a model of RGB images; this one reads {channels} channels")

    @property
    def image_size(self) -> int:
        """Height and width of what is reconstructed: those that the model was trained with."""
        return self.model.encoder.resolution

    @torch.no_grad()
    def __call__(self, image: ImageSource, file_name: str | os.PathLike | None = None) -> Tensor:
        """The reconstruction (1, 3, R, R) in [-1, 1], R = image_size, also written to the PNG `file_name`.

        `image` is a path, a PIL image or uint8 (h, w, 3). Raises ValueError for one whose shorter side is below R, and
        OSError (FileNotFoundError) for a file that cannot be read.
        """
        pixels = np.array(square_image(image, self.image_size))
        x = from_uint8(pixels)[None].to(self.model.device, dtype_of(self.model))
        quant, _, _ = self.model.encode(x)
        logger.info("%s: latents of shape %s", type(self.model).__name__, tuple(quant.shape))
        reconstruction = self.model.decode(quant).clamp(-1, 1)
        if file_name is not None:
            Path(file_name).parent.mkdir(parents=True, exist_ok=True)
            save_png(file_name, to_uint8(reconstruction[0]))
        return reconstruction
