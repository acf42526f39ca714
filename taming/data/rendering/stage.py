"""Putting a scene together, object by object."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from taming.data.rendering.camera import Camera
from taming.data.rendering.scene import Instance, Patch, Scene, Shadow
from taming.data.rendering.shapes import CORNERS, Solid, rotation

VIEW = 0.45
"""Half the width of the view in depths: what is at x = VIEW z is at the image's edge."""
ATTEMPTS = 24


@dataclass
class Stage:
    """A scene under construction. Objects are placed at x, z with their origin on the ground."""

    camera: Camera
    rng: np.random.Generator
    instances: list[Instance] = field(default_factory=list)
    solids: list[Solid] = field(default_factory=list)
    shadows: list[Shadow] = field(default_factory=list)
    objects: set[int] = field(default_factory=set)
    taken: list[tuple[float, float]] = field(default_factory=list)
    """Spans of x / z that objects stand in."""
    waters: Sequence[Patch] = ()
    """Where only boats may be."""

    def background(self, kind: str) -> int:
        """The number of the instance that all background of this kind shares."""
        for number, instance in enumerate(self.instances):
            if instance.kind == kind and number not in self.objects:
                return number
        self.instances.append(Instance(kind))
        return len(self.instances) - 1

    def decorate(self, kind: str, parts: Sequence[Solid], at: Sequence[float], *, scale: float = 1.0) -> None:
        """Add solids to the background of a kind; they cast no shadow."""
        self._add(self.background(kind), parts, at, rotation(), scale)

    def place(
        self,
        kind: str,
        parts: Sequence[Solid],
        at: Sequence[float],
        *,
        yaw: float = 0.0,
        scale: float = 1.0,
        shadow: float = 0.5,
        member_of: int | None = None,
        **flags: bool,
    ) -> int:
        """Add an object at (x, y, z), or another member of one; `flags` are Instance's. Returns its number."""
        if member_of is None:
            self.instances.append(Instance(kind, **flags))
            self.objects.add(len(self.instances) - 1)
        owner = len(self.instances) - 1 if member_of is None else member_of
        low, high = self._add(owner, parts, at, rotation(yaw=yaw), scale)
        if shadow:
            self._cast_shadow(low, high, shadow)
        return owner

    def _add(
        self, owner: int, parts: Sequence[Solid], at: Sequence[float], turn: np.ndarray, scale: float
    ) -> np.ndarray:
        """Put the parts up; returns the corners (2, 3) of the box that they fill."""
        placed = [replace(part.transformed(scale * turn, at), owner=owner) for part in parts]
        self.solids += placed
        corners = np.concatenate([CORNERS @ part.matrix.T + part.offset for part in placed])
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    def _cast_shadow(self, low: np.ndarray, high: np.ndarray, strength: float) -> None:
        x, _, z = (low + high) / 2
        radius_x, height, radius_z = (high - low) * [0.5, 1.0, 0.5]
        self.shadows.append(Shadow(x, z, 1.1 * radius_x + 0.03 * height, 1.05 * radius_z + 0.1 * height, strength))

    def free_place(
        self, near: float, far: float, half_width: float, *, edge: float = 0.93, afloat: bool = False
    ) -> tuple[float, float]:
        """A random (x, z) between two depths, within the view and not in water unless `afloat`, where little stands in
        the way from the camera.

        Nearly nothing stands so close that its feet are below the image.
        """
        near = max(near, 0.95 * self.camera.nearest)
        far = max(far, near)
        best, best_overlap = (0.0, far), np.inf
        for _ in range(ATTEMPTS):
            z = self.rng.uniform(near, far)
            limit = max(edge * VIEW * z - half_width, 0.0)
            x = self.rng.uniform(-limit, limit)
            span = ((x - half_width) / z, (x + half_width) / z)
            overlap = sum(max(0.0, min(span[1], b) - max(span[0], a)) for a, b in self.taken) / (span[1] - span[0])
            place = np.float64(x), np.float64(z)
            overlap += 0.0 if afloat else sum(float(water.covers(*place)) for water in self.waters)
            if overlap < best_overlap:
                best, best_overlap = (x, z), overlap
            if overlap <= 0.15:
                break
        self.take(*best, half_width)
        return best

    def take(self, x: float, z: float, half_width: float) -> None:
        """Mark a place as taken."""
        self.taken.append(((x - half_width) / z, (x + half_width) / z))

    def scene(self, **parts) -> Scene:
        """The finished scene; `parts` are those of Scene that are missing here."""
        return Scene(
            self.camera,
            instances=tuple(self.instances),
            solids=tuple(self.solids),
            shadows=tuple(self.shadows),
            objects=frozenset(self.objects),
            **parts,
        )
