"""Crops and flips that tell what they did, so that boxes can follow; on PIL images and tensors (c, h, w).

Each returns (what it did, image). A crop is told as the box (x0, y0, width, height) of what is left, relative to the
image, 0 to 1.
"""

import random

import torch
from PIL.Image import Image as PILImage
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, RandomCrop, RandomHorizontalFlip
from torchvision.transforms import functional as F

from taming.data.helper_types import BoundingBox, Image


def convert_pil_to_tensor(image: PILImage) -> Tensor:
    """uint8 (c, h, w), 0 to 255."""
    return F.pil_to_tensor(image)


class CenterCropReturnCoordinates(CenterCrop):
    """Crop of the given size from the middle, with the box of the largest square there.

    The box is that of the crop if the image's shorter side was scaled to the size before.
    """

    @staticmethod
    def get_bbox_of_center_crop(width: int, height: int) -> BoundingBox:
        """The largest square in the middle of an image of this size."""
        if width > height:
            w = height / width
            return 0.5 - w / 2, 0.0, w, 1.0
        h = width / height
        return 0.0, 0.5 - h / 2, 1.0, h

    def forward(self, img: Image) -> tuple[BoundingBox, Image]:
        """Box and crop."""
        width, height = F.get_image_size(img)
        return self.get_bbox_of_center_crop(width, height), super().forward(img)


class RandomCrop1dReturnCoordinates(RandomCrop):
    """Crop of a fixed size from anywhere, drawn by torch; all parameters are those of torchvision's `RandomCrop`.

    The box is relative to the padded image where there is padding. ValueError for an image smaller than the crop.
    """

    def forward(self, img: Image) -> tuple[BoundingBox, Image]:
        """Box and crop."""
        img = self._padded(img)
        width, height = F.get_image_size(img)
        top, left, h, w = self.get_params(img, self.size)
        return (left / width, top / height, w / width, h / height), F.crop(img, top, left, h, w)

    def _padded(self, img: Image) -> Image:
        if self.padding is not None:
            img = F.pad(img, self.padding, self.fill, self.padding_mode)
        width, height = F.get_image_size(img)
        missing = [max(0, self.size[1] - width), max(0, self.size[0] - height)]
        if self.pad_if_needed and any(missing):
            img = F.pad(img, missing, self.fill, self.padding_mode)
        return img


class Random2dCropReturnCoordinates(nn.Module):
    """Square of random side, `min_size` to the shorter side inclusive, and place; drawn from Python's `random`.

    An image whose shorter side is no larger than `min_size` gives up a square of its shorter side.
    """

    def __init__(self, min_size: int) -> None:
        super().__init__()
        if min_size < 1:
            raise ValueError(f"min_size of a random crop must be at least 1, not {min_size}")
        self.min_size = min_size

    def forward(self, img: Image) -> tuple[BoundingBox, Image]:
        """Box and crop."""
        width, height = F.get_image_size(img)
        shorter = min(width, height)
        side = shorter if shorter <= self.min_size else random.randint(self.min_size, shorter)
        top = random.randint(0, height - side)
        left = random.randint(0, width - side)
        return (left / width, top / height, side / width, side / height), F.crop(img, top, left, side, side)


class RandomHorizontalFlipReturn(RandomHorizontalFlip):
    """Mirror with probability `p`, drawn by torch, and tell whether it did."""

    def forward(self, img: Image) -> tuple[bool, Image]:
        """Whether it was mirrored, and the image."""
        if torch.rand(1) < self.p:
            return True, F.hflip(img)
        return False, img
