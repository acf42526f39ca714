"""Random crops of an image as CLIP is to see it, augmented, so that no single view can be fooled.

All random numbers come from a generator. n crops of s x s pixels, values around [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

MAX_ROTATION = math.radians(15)
MAX_SHIFT = 0.1
"""Of the side."""
MAX_TILT = 0.2
"""Change of the scale by perspective from the middle to an edge."""
MAX_JITTER = 0.1
"""Change of brightness, contrast and saturation."""
ERASED_AREA = (0.1, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)
MAX_NOISE = 0.1
PROBABILITY = 0.7
"""Of each augmentation, but a flip's is one half, and noise is always there."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Cutouts:
    """Makes `count` crops of `size` pixels. A larger `power` makes them smaller on average. `augmentations` are of
    AUGMENTATIONS.
    """

    size: int
    count: int = 32
    power: float = 1.0
    augmentations: Sequence[str] = ()

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """An image (1, 3, H, W) -> crops (n, 3, s, s); the generator is on its device."""
        places = torch.rand(self.count, 3, generator=generator, device=generator.device).tolist()
        crops = torch.cat([self._crop(image, *place) for place in places])
        crops = _warp(crops, [name for name in self.augmentations if name in WARPS], generator)
        for name, augment in COLOURS.items():
            if name in self.augmentations:
                crops = augment(crops, generator)
        return crops

    def _crop(self, image: Tensor, u: float, x: float, y: float) -> Tensor:
        """A square between what CLIP reads and the image's shorter side; u in [0, 1) sets the side, x and y where."""
        height, width = image.shape[2:]
        largest = min(height, width)
        smallest = min(largest, self.size)
        side = int(u**self.power * (largest - smallest) + smallest)
        top, left = int(y * (height - side + 1)), int(x * (width - side + 1))
        crop = image[:, :, top : top + side, left : left + side]
        if side == self.size:
            return crop
        return F.interpolate(crop, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def _chosen(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which of n crops are augmented, 1.0 or 0.0."""
    return (torch.rand(n, generator=generator, device=generator.device) < probability).float()


def _flip(n: int, generator: torch.Generator) -> Tensor:
    matrices = _identity(n, generator)
    matrices[:, 0, 0] = 1 - 2 * _chosen(n, 0.5, generator)
    return matrices


def _affine(n: int, generator: torch.Generator) -> Tensor:
    chosen = _chosen(n, PROBABILITY, generator)
    angle = chosen * _uniform(n, -MAX_ROTATION, MAX_ROTATION, generator)
    matrices = _identity(n, generator)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 1, 0], matrices[:, 0, 1] = angle.sin(), -angle.sin()
    for axis in (0, 1):
        matrices[:, axis, 2] = chosen * _uniform(n, -2 * MAX_SHIFT, 2 * MAX_SHIFT, generator)  # the side is 2 long
    return matrices


def _perspective(n: int, generator: torch.Generator) -> Tensor:
    chosen = _chosen(n, PROBABILITY, generator)
    matrices = _identity(n, generator)
    for axis in (0, 1):
        matrices[:, 2, axis] = chosen * _uniform(n, -MAX_TILT, MAX_TILT, generator)
    return matrices


def _identity(n: int, generator: torch.Generator) -> Tensor:
    return torch.eye(3, device=generator.device).repeat(n, 1, 1)


def _warp(crops: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Flip, turn, shift and tilt by one projective map (n, 3, 3) of the places in [-1, 1]; edges are continued."""
    if not names:
        return crops
    n, size = len(crops), crops.shape[-1]
    matrices = _identity(n, generator)
    for name in names:
        matrices = matrices @ WARPS[name](n, generator)
    centres = (torch.arange(size, device=crops.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    places = torch.stack((x, y, torch.ones_like(x)), dim=-1)  # (s, s, 3)
    mapped = torch.einsum("n i j, h w j -> n h w i", matrices, places)
    return F.grid_sample(crops, mapped[..., :2] / mapped[..., 2:], padding_mode="border", align_corners=False)


def _jitter(crops: Tensor, generator: torch.Generator) -> Tensor:
    n = len(crops)
    chosen = _chosen(n, PROBABILITY, generator)
    brightness, contrast, saturation = (
        rearrange(1 + chosen * _uniform(n, -MAX_JITTER, MAX_JITTER, generator), "n -> n 1 1 1") for _ in range(3)
    )
    crops = crops * brightness
    mean = crops.mean(dim=(1, 2, 3), keepdim=True)
    crops = mean + contrast * (crops - mean)
    grey = (crops * crops.new_tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)
    return grey + saturation * (crops - grey)


def _erase(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Make a rectangle black (Zhong et al. 2017)."""
    n, size = len(crops), crops.shape[-1]
    area = _chosen(n, PROBABILITY, generator) * _uniform(n, *ERASED_AREA, generator)
    aspect = _uniform(n, *map(math.log, ERASED_ASPECT), generator).exp()
    pixels = (torch.arange(size, device=crops.device) + 0.5) / size
    inside = []
    for extent in ((area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)):
        start = _uniform(n, 0, 1, generator) * (1 - extent)
        inside.append((pixels >= start[:, None]) & (pixels < (start + extent)[:, None]))  # (n, s)
    erased = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (n, 1, s, s)
    return crops.masked_fill(erased, 0.0)


def _add_noise(crops: Tensor, generator: torch.Generator) -> Tensor:
    amplitude = rearrange(_uniform(len(crops), 0, MAX_NOISE, generator), "n -> n 1 1 1")
    return crops + amplitude * torch.randn(crops.shape, generator=generator, device=generator.device)


WARPS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "flip": _flip,
    "affine": _affine,
    "perspective": _perspective,
}
COLOURS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "jitter": _jitter,
    "erasing": _erase,
    "noise": _add_noise,
}
AUGMENTATIONS = (*WARPS, *COLOURS)
