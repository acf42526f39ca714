"""Depth of single images by MiDaS (https://arxiv.org/abs/1907.01341): inverse, of no fixed scale."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taming.data._hub import explaining_downloads

VERSION = "intel-isl/MiDaS:v2"
"""Repository and tag of MiDaS 2.0, whose depth the published models were trained on."""

LONGER_SIDE, MULTIPLE = 384, 32
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def load_midas(repository: str, device: torch.device) -> nn.Module:
    """MiDaS by torch.hub, which runs the code of `repository`, such as owner/name:tag, and downloads the weights."""
    with explaining_downloads(f"MiDaS, {repository},"):
        network = torch.hub.load(repository, "MiDaS", trust_repo=True)
    return network.to(device).eval()


def network_input(image: np.ndarray) -> Tensor:
    """Image (h, w, 3) in [-1, 1] -> (1, 3, h', w'), as the default transform of MiDaS 2 makes it.

    The longer side becomes 384, both a multiple of 32, by cubic interpolation; then ImageNet's mean and deviation.
    """
    height, width = image.shape[:2]
    scale = LONGER_SIDE / max(height, width)
    size = [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (width, height)]
    resized = cv2.resize((image.astype(np.float32) + 1) / 2, size, interpolation=cv2.INTER_CUBIC)
    return torch.from_numpy((resized - MEAN) / STD).permute(2, 0, 1)[None]  # (h', w', 3) -> (1, 3, h', w')


@torch.inference_mode()
def estimate_depth(network: Callable[[Tensor], Tensor], image: np.ndarray, device: torch.device) -> np.ndarray:
    """Image (h, w, 3) in [-1, 1] -> depth float32 (h, w), by a network (1, 3, h', w') -> (1, h', w')."""
    predicted = network(network_input(image).to(device))[:, None].float()  # (1, h', w') -> (1, 1, h', w')
    return F.interpolate(predicted, size=image.shape[:2], mode="bicubic", align_corners=False)[0, 0].cpu().numpy()
