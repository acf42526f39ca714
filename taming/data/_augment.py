"""The only import of albumentations: it asks the network for updates unless told not to before its import."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations

__all__ = ["SeededTransform", "albumentations", "pipeline", "square"]


class SeededTransform:
    """A random albumentations pipeline whose every call takes its seed from Python's global `random`.

    Albumentations seeds a pipeline once, from the system: forked workers would repeat each other's crops, and the seed
    of a run would be ignored. `set_random_seed` is no remedy: it starts each transform inside with the same seed, so
    that where a crop lies decides whether the image is flipped.
    """

    def __init__(self, transform: albumentations.BasicTransform | albumentations.BaseCompose) -> None:
        self.transform = transform

    def __call__(self, **targets: Any) -> dict[str, Any]:
        return self.seeded(random.getrandbits(32), **targets)

    def seeded(self, seed: int, **targets: Any) -> dict[str, Any]:
        """The outcome that belongs to `seed`, whatever was drawn before."""
        self.transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self.transform(**targets)


def pipeline(
    steps: Sequence[albumentations.BasicTransform],
    *,
    random_crop: bool,
    additional_targets: Mapping[str, str] | None = None,
) -> Callable[..., dict[str, Any]]:
    """One transform of these steps; seeded by Python's `random` if it crops at random; without steps the identity."""
    if not steps:
        return _unchanged
    composed = albumentations.Compose(list(steps), additional_targets=dict(additional_targets or {}))
    return SeededTransform(composed) if random_crop else composed


def _unchanged(**targets: Any) -> dict[str, Any]:
    return targets


def square(size: int, *, random_crop: bool) -> tuple[albumentations.SmallestMaxSize, albumentations.BasicTransform]:
    """Scale the shorter side to `size` (bilinear, no antialiasing); cut a square of it, anywhere or at the centre."""
    crop = albumentations.RandomCrop if random_crop else albumentations.CenterCrop
    return albumentations.SmallestMaxSize(max_size=size), crop(height=size, width=size)
