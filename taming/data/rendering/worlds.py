"""Worlds: families of scenes, with the kinds of scenes, labels and objects that they have in common."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from taming.data.rendering import simple
from taming.data.rendering.classes import CLASSES, class_of
from taming.data.rendering.landscapes import LANDSCAPES, landscape
from taming.data.rendering.rooms import ROOMS, room
from taming.data.rendering.scene import Scene


@dataclass(frozen=True)
class World:
    """kinds of scenes; labels of pixels; classes of objects, by number; what makes a scene (rng, kind, width, height).

    palette: colours (n, 3) in [-1, 1] and their labels (n,), if a pixel's colour tells its label.
    """

    kinds: tuple[str, ...]
    labels: tuple[str, ...]
    objects: tuple[str, ...]
    make: Callable[[np.random.Generator, str, int, int], Scene]
    palette: tuple[np.ndarray, np.ndarray] | None = None

    def owner_labels(self, scene: Scene) -> np.ndarray:
        """Label of every instance of a scene, uint8 (n,)."""
        return np.array([self.labels.index(class_of(instance.kind)) for instance in scene.instances], np.uint8)


def _rich_scene(rng: np.random.Generator, kind: str, width: int, height: int) -> Scene:
    return (room if kind in ROOMS else landscape)(rng, kind, width, height)


WORLDS = {
    "simple": World(
        tuple(simple.GROUNDS), tuple(simple.COLOURS), simple.OBJECTS, simple.simple_scene, simple.palette()
    ),
    "rich": World(
        (*LANDSCAPES, *ROOMS),
        tuple(CLASSES),
        tuple(name for name, ids in CLASSES.items() if ids.open_images is not None),
        _rich_scene,
    ),
}
