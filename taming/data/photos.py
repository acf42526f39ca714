"""Photographs: random crops of the pictures that come inside the scikit-image package, one class per picture.

Nothing is downloaded. At each of several scales a picture is cut into two regions that share no pixel: training crops
are drawn from two thirds of it, validation crops are fixed places in the third at its left or right side.
"""

import importlib.util
import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

PHOTOS = {
    "astronaut": ("astronaut.png", "right"),
    "brick": ("brick.png", "right"),
    "cat": ("chelsea.png", "left"),
    "coffee": ("coffee.png", "left"),
    "galaxies": ("hubble_deep_field.jpg", "right"),
    "grass": ("grass.png", "right"),
    "gravel": ("gravel.png", "right"),
    "motorcycle": ("motorcycle_left.png", "right"),
    "retina": ("retina.jpg", "right"),
    "rocket": ("rocket.jpg", "left"),
    "tissue": ("ihc.png", "right"),
}
"""Class -> file, and the side whose third is held out: the one whose like is found in the rest of the picture too."""
SCALES = (192, 256, 320)
"""Short sides in pixels, for crops of 32; other sizes scale with it."""
TRAINING_SHARE = 2 / 3
VALIDATION_CROPS = 12
"""Per picture and scale."""


class Photos(Dataset):
    """What both splits share: the regions (h, w, 3) uint8 that crops are taken from, and their classes.

    Raises ValueError for a size below 8, and FileNotFoundError if scikit-image comes without its pictures.
    """

    def __init__(self, size: int, *, training: bool) -> None:
        if size < 8:
            raise ValueError(f"{type(self).__module__}.{type(self).__name__}: size={size} is too small, use 8 or more")
        self.size = size
        self.class_names = list(PHOTOS)
        self.n_classes = len(PHOTOS)
        self.regions = [
            (region(picture, held_out, training), label)
            for label, (name, held_out) in enumerate(PHOTOS.values())
            for picture in scaled_pictures(name, tuple(scale * size // 32 for scale in SCALES))
        ]

    def item(self, number: int, top: int, left: int, *, flip: bool = False) -> dict:
        """One crop of a region: `image` float32 (size, size, 3) in [-1, 1], `class_label`, `human_label`."""
        pixels, label = self.regions[number]
        crop = pixels[top : top + self.size, left : left + self.size]
        crop = crop[:, ::-1] if flip else crop
        image = (crop.astype(np.float64) / 127.5 - 1.0).astype(np.float32)
        return {"image": image, "class_label": label, "human_label": self.class_names[label]}


class PhotosTrain(Photos):
    """`length` random crops of the training regions, other ones at each access; mirrored half of the time if `flip`."""

    def __init__(self, size: int = 32, length: int = 8192, flip: bool = True) -> None:
        super().__init__(size, training=True)
        self.length = length
        self.flip = flip

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        """A crop of the picture and scale that `index` selects, at a place drawn from Python's `random`."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        number = index % len(self.regions)
        height, width, _ = self.regions[number][0].shape
        top, left = random.randint(0, height - self.size), random.randint(0, width - self.size)
        return self.item(number, top, left, flip=self.flip and random.random() < 0.5)


class PhotosValidation(Photos):
    """Fixed crops of the validation regions, as many of each picture at each scale."""

    def __init__(self, size: int = 32) -> None:
        super().__init__(size, training=False)

    def __len__(self) -> int:
        return len(self.regions) * VALIDATION_CROPS

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, place = divmod(index, VALIDATION_CROPS)
        height, width, _ = self.regions[number][0].shape
        top = (height - self.size) * place // (VALIDATION_CROPS - 1)  # downwards, in zigzag
        left = (width - self.size) * (place % 2)
        return self.item(number, top, left)


def region(picture: np.ndarray, held_out: str, training: bool) -> np.ndarray:
    """The columns of a picture (h, w, 3) that belong to one split, when the third at one side is held out."""
    width = picture.shape[1]
    kept = round(width * TRAINING_SHARE)
    if held_out == "right":
        return picture[:, :kept] if training else picture[:, kept:]
    return picture[:, width - kept :] if training else picture[:, : width - kept]


@cache
def scaled_pictures(name: str, short_sides: tuple[int, ...]) -> list[np.ndarray]:
    """A picture of scikit-image, uint8 (h, w, 3), at each of these lengths of its short side, antialiased."""
    package = importlib.util.find_spec("skimage")  # its folder only: importing it takes time and may offer downloads
    path = Path(package.origin).parent / "data" / name
    if not path.is_file():
        raise FileNotFoundError(f"taming.data.photos: {path} is missing; install scikit-image from its wheel")
    with Image.open(path) as file:
        picture = file.convert("RGB")
    scaled = []
    for short_side in short_sides:
        factor = short_side / min(picture.size)
        size = [max(short_side, round(side * factor)) for side in picture.size]
        scaled.append(np.asarray(picture.resize(size, Image.Resampling.LANCZOS)))
    return scaled
