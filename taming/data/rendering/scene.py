"""What a scene is made of. An instance is a number: its place in `Scene.instances`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from taming.data.rendering.camera import Camera
from taming.data.rendering.shapes import Solid

Colour = tuple[float, float, float]
SKY_DEPTH = 100.0
"""Metres; no surface is farther away."""


@dataclass(frozen=True)
class Instance:
    """One object, or one kind of background. group: many merged into one; depicted: on a picture; inside: in a room
    that is seen through a window."""

    kind: str
    group: bool = False
    depicted: bool = False
    inside: bool = False


@dataclass(frozen=True)
class Surface:
    """How a background looks. finish: plain, water, planks, rock (with snow above the height `snow`) or dunes."""

    owner: int
    colour: Colour
    grain: float = 0.1
    flat: float = 0.0
    finish: str = "plain"
    snow: float = np.inf


@dataclass(frozen=True)
class Patch:
    """A part of the ground: from a front line on, or a strip around a line; both lines wave.

    From `start` on the line is z = start + waves(x) and the patch all behind it, up to `end` metres; with a `width` the
    line is x = start + slope z + waves(z) and the patch a strip of this width along it.
    """

    surface: Surface
    start: float
    width: float | None = None
    slope: float = 0.0
    end: float = np.inf
    waves: Sequence[tuple[float, float, float]] = ()
    """(height, waves per metre, phase) of each sine."""

    def covers(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Whether ground points lie in the patch."""
        if self.width is None:
            return (z > self.start + sines(self.waves, x)) & (z < self.end)
        return np.abs(x - self.start - self.slope * z - sines(self.waves, z)) < self.width / 2


@dataclass(frozen=True)
class Sheet:
    """The silhouette of a ridge: a vertical sheet at depth z, whose upper edge is base + waves(x)."""

    surface: Surface
    z: float
    base: float
    waves: Sequence[tuple[float, float, float]]

    def edge(self, x: np.ndarray) -> np.ndarray:
        """Height of the upper edge above the ground."""
        return self.base + sines(self.waves, x)


@dataclass(frozen=True)
class Sky:
    """Colours from the horizon up, of the sun's light, and of what is in the shade."""

    owner: int
    horizon: Colour
    zenith: Colour
    sunlight: Colour = (1.0, 1.0, 1.0)
    haze: float = 80.0
    """Metres in which a surface's own colour falls to 1/e."""


@dataclass(frozen=True)
class Room:
    """The inside of a box: floor at height 0, walls at x = left and right and z = back, a ceiling."""

    left: float
    right: float
    back: float
    height: float
    floor: Surface
    wall: Surface
    ceiling: Surface


@dataclass(frozen=True)
class Shadow:
    """A soft dark ellipse on the ground."""

    x: float
    z: float
    radius_x: float
    radius_z: float
    strength: float = 0.5


@dataclass(frozen=True)
class Scene:
    """Either under a sky, on the ground with its patches (later ones lie on earlier ones), or in a room."""

    camera: Camera
    instances: Sequence[Instance]
    sky: Sky
    ground: Surface
    patches: Sequence[Patch] = ()
    sheets: Sequence[Sheet] = ()
    room: Room | None = None
    solids: Sequence[Solid] = ()
    shadows: Sequence[Shadow] = ()
    sun: tuple[float, float, float] = (-0.5, 0.7, -0.6)
    ambient: float = 0.35
    caption: str = ""
    objects: frozenset[int] = field(default_factory=frozenset)
    """The instances that are objects, not background."""


def sines(waves: Sequence[tuple[float, float, float]], x: np.ndarray) -> np.ndarray:
    """The sum of waves (height, waves per metre, phase in turns) at x."""
    total = np.zeros_like(x)
    for height, frequency, phase in waves:
        total = total + height * np.sin(2 * np.pi * (frequency * x + phase)).astype(x.dtype)
    return total
