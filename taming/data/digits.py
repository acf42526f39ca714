"""Handwritten digits: the 1,797 scans that come inside scikit-learn, ten classes.

Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI 1998; scikit-learn holds its test part, by 13
writers that appear in order. 8 x 8 cells of 17 grey levels, bright strokes on black, here enlarged.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

HELD_OUT = 5
"""Every fifth scan of each class is held out; so all writers are on both sides."""


class Digits(Dataset):
    """One split: `image` float32 (size, size, 3) in [-1, 1], `class_label` 0 to 9, `human_label`.

    Raises ValueError for a size below 8.
    """

    def __init__(self, size: int, *, training: bool) -> None:
        if size < 8:
            raise ValueError(f"{type(self).__module__}.{type(self).__name__}: size={size} is too small, use 8 or more")
        scans = load_digits()
        held_out = np.zeros(len(scans.target), dtype=bool)
        for label in range(10):
            held_out[np.flatnonzero(scans.target == label)[HELD_OUT - 1 :: HELD_OUT]] = True
        in_split = held_out != training
        self.size = size
        self.n_classes = 10
        self.class_names = [str(digit) for digit in range(10)]
        self.labels = scans.target[in_split]
        cells = torch.from_numpy(scans.images[in_split]).float()[:, None] / 8 - 1  # (n, 1, 8, 8), 0..16 -> [-1, 1]
        enlarged = F.interpolate(cells, size=(size, size), mode="bilinear", align_corners=False)
        self.images = enlarged.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        label = int(self.labels[index])
        return {"image": self.images[index], "class_label": label, "human_label": self.class_names[label]}


class DigitsTrain(Digits):
    """Four fifths of the scans."""

    def __init__(self, size: int = 32) -> None:
        super().__init__(size, training=True)


class DigitsValidation(Digits):
    """The held-out fifth of the scans."""

    def __init__(self, size: int = 32) -> None:
        super().__init__(size, training=False)
