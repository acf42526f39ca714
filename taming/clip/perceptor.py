"""CLIP models of open_clip_torch as a measure of how well images match texts (Radford et al. 2021).

n images or texts, d dimensions of the embedding, s x s pixels that the model reads.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taming.config_errors import one_line, suggestion

logger = logging.getLogger(__name__)

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
RANDOM = "none"
"""In place of the name of weights: random ones."""


@dataclass(frozen=True)
class Perceptor:
    """A CLIP model in eval mode, its tokenizer, the side of the images it reads and the normalisation of their pixels.

    `name` tells model and weights.
    """

    model: nn.Module
    tokenize: Callable[[Sequence[str]], Tensor]
    size: int
    mean: Sequence[float] = OPENAI_MEAN
    std: Sequence[float] = OPENAI_STD
    name: str = ""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def embed_images(self, images: Tensor) -> Tensor:
        """Images (n, 3, s, s) around [0, 1] -> unit vectors (n, d)."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return F.normalize(self.model.encode_image((images - mean) / std).float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (n, d); what is too long for the model is cut off."""
        return F.normalize(self.model.encode_text(self.tokenize(texts).to(self.device)).float(), dim=-1)


def load_clip(name: str = "ViT-B/32", pretrained: str = "openai", *, device: torch.device | str = "cpu") -> Perceptor:
    """The model of open_clip with the weights of this name (downloaded once) or in this file; "none" are random ones.

    A name with a scheme, such as hf-hub:<owner>/<model>, is an address that has weights of its own. Raises ValueError
    for a name that open_clip does not know, OSError if the weights cannot be had.
    """
    open_clip = _package()
    is_address = ":" in name
    name = name if is_address else name.replace("/", "-")
    weights = None if is_address or pretrained.lower() == RANDOM else pretrained
    if not is_address:
        _check_names(open_clip, name, weights)
    # Some weights need the activation that they were trained with, whatever the config of the model says.
    quick_gelu = weights is not None and bool((open_clip.get_pretrained_cfg(name, weights) or {}).get("quick_gelu"))
    try:
        model = open_clip.create_model(name, pretrained=weights, device=device, force_quick_gelu=quick_gelu).eval()
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # downloads fail in the ways of several packages
        raise OSError(
            f"CLIP model {name} with the weights {pretrained} cannot be loaded ({one_line(error)}); "
            "name a file that you have with --clip_pretrained"
        ) from error
    return Perceptor(model, tokenizer, *_preprocessing(model), name if is_address else f"{name}/{pretrained}")


def _check_names(open_clip: ModuleType, name: str, weights: str | None) -> None:
    if open_clip.get_model_config(name) is None:
        raise ValueError(f"--clip_model {name}: open_clip has no such model{suggestion(name, open_clip.list_models())}")
    if weights is None:
        logger.warning("the weights of %s are random, pictures will not match their prompts", name)
        return
    known = open_clip.list_pretrained_tags_by_model(name)
    if weights not in known and not Path(weights).is_file():
        raise ValueError(
            f"--clip_pretrained {weights}: neither a file nor weights of {name}{suggestion(weights, known)}"
        )


def _preprocessing(model: nn.Module) -> tuple[int, Sequence[float], Sequence[float]]:
    """Side, mean and standard deviation of the images that the model reads."""
    size = model.visual.image_size
    side = size if isinstance(size, int) else min(size)
    mean, std = (getattr(model.visual, f"image_{name}", None) for name in ("mean", "std"))
    return side, mean or OPENAI_MEAN, std or OPENAI_STD


def _package() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "guidance by CLIP needs a package: pip install 'taming-transformers[clip]' (open_clip_torch)"
        ) from error
    return open_clip
