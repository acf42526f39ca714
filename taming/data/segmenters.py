"""Networks that make label maps of images: DeepLab v2 as for the published models, and torchvision's DeepLab v3."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from taming.checkpoint import load_checkpoint
from taming.data._hub import explaining_downloads

DEEPLAB_V2 = "kazuto1011/deeplab-pytorch:master"
DEEPLAB_V2_WEIGHTS = (
    "https://github.com/kazuto1011/deeplab-pytorch/releases/download/v1.0/"
    "deeplabv2_resnet101_msc-cocostuff164k-100000.pth"
)
COCO_STUFF_CLASSES = 182


@dataclass(frozen=True)
class Segmenter:
    """A network (1, 3, h, w) -> logits (1, classes, h', w') with what it expects of pixels, 0 to 255, and of resizing.

    Mean and deviation are in the order of the channels that the network takes. The defaults are those of DeepLab v2.
    """

    network: Callable[[Tensor], Tensor]
    device: torch.device
    bgr: bool = True
    mean: tuple[float, float, float] = (104.008, 116.669, 122.675)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    align_corners: bool = True

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, short_side: int | None = None) -> np.ndarray:
        """Image (h, w, 3) in [-1, 1] -> labels uint8 (h, w); the network sees it at `short_side`, if that is given."""
        pixels = torch.from_numpy(image) * 127.5 + 127.5
        pixels = pixels.flip(2) if self.bgr else pixels
        pixels = (pixels - torch.tensor(self.mean)) / torch.tensor(self.std)
        x = pixels.permute(2, 0, 1)[None].to(self.device)  # (h, w, 3) -> (1, 3, h, w)
        size = image.shape[:2]
        if short_side is not None:
            scaled = [max(1, round(side * short_side / min(size))) for side in size]
            x = F.interpolate(x, size=scaled, mode="bilinear", align_corners=False, antialias=True)
        logits = F.interpolate(self.network(x), size=size, mode="bilinear", align_corners=self.align_corners)
        return logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()  # (1, classes, h, w) -> (h, w)


def load_deeplab_v2(weights: str | os.PathLike, device: torch.device) -> Segmenter:
    """DeepLab v2 (ResNet-101) on COCO-Stuff 164k, 182 classes: code by torch.hub, weights from a file.

    Raises FileNotFoundError for a missing file, ValueError for one with weights of another network.
    """
    state = load_checkpoint(weights)["state_dict"]
    with explaining_downloads(f"the code of DeepLab v2, {DEEPLAB_V2},"):
        network = torch.hub.load(
            DEEPLAB_V2, "deeplabv2_resnet101", pretrained=False, n_classes=COCO_STUFF_CLASSES, trust_repo=True
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights}: no weights of DeepLab v2 with {COCO_STUFF_CLASSES} classes: {error}") from error
    return Segmenter(network.to(device).eval(), device)


def load_deeplab_v3(device: torch.device) -> Segmenter:
    """torchvision's DeepLab v3 (ResNet-101), 21 classes of Pascal VOC, with the weights that torchvision downloads."""
    from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights, deeplabv3_resnet101

    weights = DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1
    network = deeplabv3_resnet101(weights_backbone=None, num_classes=len(weights.meta["categories"]), aux_loss=True)
    with explaining_downloads("torchvision's weights of DeepLab v3"):
        network.load_state_dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    network.to(device).eval()
    expected = weights.transforms()
    return Segmenter(
        lambda x: network(x)["out"],
        device,
        bgr=False,
        mean=tuple(255 * value for value in expected.mean),
        std=tuple(255 * value for value in expected.std),
        align_corners=False,
    )
