"""From a scene to what data sets give: image, instance map, depth and boxes."""

from dataclasses import dataclass

import numpy as np

from taming.data.helper_types import BoundingBox
from taming.data.rendering.caster import Hits, cast
from taming.data.rendering.scene import Scene
from taming.data.rendering.shading import shade

NEAREST, FARTHEST = 8000.0, 200.0
"""Inverse depths of what is 2.5 metres from the camera or nearer, and of the sky."""


@dataclass(frozen=True)
class View:
    """What the centres of the pixels show: instance numbers int16 (H, W) and depth float32 (H, W) in metres."""

    owners: np.ndarray
    depth: np.ndarray

    def boxes(self) -> dict[int, tuple[int, int, int, int]]:
        """Each visible instance's box of pixels: left, top, width, height."""
        return {int(owner): box_of(self.owners == owner) for owner in np.unique(self.owners)}


def view(scene: Scene) -> View:
    """The maps of a scene, without its image."""
    return _centres(cast(scene))


def render(scene: Scene, samples: int = 3) -> tuple[np.ndarray, View]:
    """Image uint8 (H, W, 3), smoothed over an odd number of rays across each pixel, and the maps."""
    if samples < 1 or samples % 2 == 0:
        raise ValueError(f"samples={samples}: the number of rays across a pixel must be odd, for one at its centre")
    hits = cast(scene, samples)
    return shade(scene, hits), _centres(hits)


def _centres(hits: Hits) -> View:
    middle, step = hits.samples // 2, hits.samples
    return View(hits.owners[middle::step, middle::step].copy(), hits.z[middle::step, middle::step].copy())


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width, height of the pixels that are set; there must be one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def relative(box: tuple[int, int, int, int], width: int, height: int) -> BoundingBox:
    """A box of pixels as shares of the image."""
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def inverse_depth(z: np.ndarray) -> np.ndarray:
    """Depth in metres -> float32 from 200 (the sky) to 8000, larger is nearer, as MiDaS has it, in steps of 2."""
    return (np.round(20000 / z.astype(np.float64) / 2) * 2).clip(FARTHEST, NEAREST).astype(np.float32)
