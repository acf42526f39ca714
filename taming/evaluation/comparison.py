"""First stages side by side: the same images through each of them, as a picture and as numbers.

n images (3, s, s) in [-1, 1], k codes of a codebook.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from taming.api.inputs import ImageSource, square_image
from taming.api.models import Source, load_model
from taming.cli import select_device
from taming.evaluation.measures import codebook_usage, perplexity, psnr, ssim
from taming.images import from_uint8, to_uint8
from taming.models.dvae import DVAE, FILES
from taming.models.first_stage import dtype_of, first_stage_of
from taming.modules.losses.lpips import LPIPS

logger = logging.getLogger(__name__)

PUBLISHED = {
    "VQGAN (f8, 8192)": "vqgan_gumbel_f8",
    "VQGAN (f16, 16384)": "vqgan_imagenet_f16_16384",
    "VQGAN (f16, 1024)": "vqgan_imagenet_f16_1024",
}
"""What the published notebook compares beside the dVAE: title -> name of the model."""

DALLE = "DALL-E (f8, 8192)"
INPUT = "Input"
DIGITS = {"PSNR": 2, "SSIM": 3, "LPIPS": 3, "codes in use, %": 0, "perplexity": 1}
"""Columns of the table -> decimals."""


@dataclass(frozen=True)
class Comparison:
    """images (n, 3, s, s); by title of the model, reconstructions of the same shape and scores by name, without LPIPS
    where its weights are not to be had.
    """

    images: Tensor
    reconstructions: Mapping[str, Tensor]
    scores: Mapping[str, Mapping[str, float]]

    def table(self) -> str:
        """The scores in Markdown, a model per line."""
        names = list(next(iter(self.scores.values())))
        lines = [["model", *names], ["---"] * (len(names) + 1)]
        for title, scores in self.scores.items():
            lines.append([title, *(f"{scores[name]:.{DIGITS[name]}f}" for name in names)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def picture(self) -> np.ndarray:
        """A row per image, the input first, with the title in the upper left corner of each tile; uint8 (H, W, 3)."""
        columns = {INPUT: self.images, **self.reconstructions}
        stacked = [np.concatenate([_titled(image, title) for image in images]) for title, images in columns.items()]
        return np.concatenate(stacked, axis=1)


def load_first_stages(
    models: Mapping[str, Source], dalle: str | os.PathLike | None = None, *, device: str | torch.device = "auto"
) -> dict[str, nn.Module]:
    """First stages by title from run folders, checkpoints or names of published models (see `load_model`).

    `dalle` is a folder with OpenAI's encoder.pkl and decoder.pkl; where they are not, that model is left out with a
    notice. Raises what `load_model` raises, and ValueError if a model has no first stage.
    """
    loaded = {title: first_stage_of(load_model(source, device=device)) for title, source in models.items()}
    if dalle is not None:
        missing = [address for name, address in FILES.values() if not Path(dalle, name).is_file()]
        if missing:
            logger.warning("%s is left out: place %s in the folder %s", DALLE, " and ".join(missing), dalle)
        else:
            loaded[DALLE] = DVAE(ckpt_path=os.fspath(dalle)).to(select_device(str(device))).eval()
    return loaded


def read_squares(images: Sequence[ImageSource], size: int) -> Tensor:
    """The middle squares of images as (n, 3, size, size) in [-1, 1], see `square_image`. Raises ValueError for none."""
    if not images:
        raise ValueError("no images to compare: name at least one")
    return torch.stack([from_uint8(np.array(square_image(image, size))) for image in images])


@torch.no_grad()
def compare_first_stages(images: Tensor, models: Mapping[str, nn.Module], *, lpips: bool = True) -> Comparison:
    """Reconstruct images (n, 3, s, s) with each model, one by one, and score the results.

    Scores are means over the images: PSNR in dB, SSIM, LPIPS (VGG; the less the better); and of all codes together the
    percentage of the codebook that is in use, and the perplexity. Raises ValueError for no models, and for a size that
    a model cannot reconstruct.
    """
    if not models:
        raise ValueError("no models to compare: name at least one")
    metric = _lpips() if lpips else None
    reconstructions, scores = {}, {}
    for title, model in models.items():
        stage = first_stage_of(model)
        outputs, codes = _reconstruct(images, stage, title)
        reconstructions[title] = outputs
        scores[title] = _quality(images, outputs, metric) | {
            "codes in use, %": 100 * codebook_usage(codes, stage.quantize.re_embed),
            "perplexity": perplexity(codes),
        }
    return Comparison(images, reconstructions, scores)


def _reconstruct(images: Tensor, model: nn.Module, title: str) -> tuple[Tensor, Tensor]:
    """Reconstructions like `images`, float32 on the CPU, and the codes of all."""
    outputs, codes = [], []
    for image in images.split(1):
        try:
            output, _, indices = model(image.to(model.device, dtype_of(model)), return_pred_indices=True)
        except ValueError as error:
            raise ValueError(f"{title}: {error}") from error
        outputs.append(output.float().clamp(-1, 1).cpu())
        codes.append(indices.flatten().cpu())
    return torch.cat(outputs), torch.cat(codes)


def _quality(images: Tensor, outputs: Tensor, metric: LPIPS | None) -> dict[str, float]:
    scores = {"PSNR": psnr(images, outputs).mean().item(), "SSIM": ssim(images, outputs).mean().item()}
    if metric is not None:
        pairs = zip(images.split(1), outputs.split(1), strict=True)
        scores["LPIPS"] = torch.cat([metric(*pair).flatten() for pair in pairs]).mean().item()
    return scores


def _lpips() -> LPIPS | None:
    """The metric; None, with a notice, if its weights can be neither found nor downloaded."""
    metric = LPIPS()
    try:
        metric.ensure_weights()
    except FileNotFoundError as error:
        logger.warning("the table has no LPIPS: %s", error)
        return None
    return metric


def _titled(image: Tensor, title: str) -> np.ndarray:
    """uint8 (s, s, 3) with white letters, outlined in black."""
    tile = Image.fromarray(to_uint8(image))
    font = ImageFont.load_default(size=max(10, tile.height // 16))
    margin = tile.height // 32
    ImageDraw.Draw(tile).text((margin, margin), title, fill="white", font=font, stroke_width=2, stroke_fill="black")
    return np.asarray(tile)
