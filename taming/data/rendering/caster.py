"""Casting rays: which surface each sees first, and how far it is.

(h, w) rays, n surfaces: the scene's background surfaces and solids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from taming.data.rendering.camera import Camera
from taming.data.rendering.scene import SKY_DEPTH, Scene, Surface
from taming.data.rendering.shapes import CORNERS, Solid, meet, normals


@dataclass
class Hits:
    """What each ray meets: depth z, number of the surface in `surfaces` and its normal (h, w, 3), not normalised.

    `samples` is the number of rays across a pixel.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    surface: np.ndarray
    normal: np.ndarray
    samples: int
    surfaces: list[Surface | Solid] = field(default_factory=list)

    @property
    def owners(self) -> np.ndarray:
        """Instance of every ray (h, w)."""
        return np.array([surface.owner for surface in self.surfaces], dtype=np.int16)[self.surface]

    def rows(self, band: slice) -> "Hits":
        """What some rows of rays meet."""
        arrays = {name: getattr(self, name)[band] for name in ("y", "z", "surface", "normal")}
        return replace(self, **arrays)

    def put(self, surface: Surface, z: np.ndarray | float, where: np.ndarray, normal: Sequence) -> None:
        """A background surface at depth z, in the rays `where` it is the nearest."""
        where = where & (z < self.z)
        self.z = np.where(where, z, self.z).astype(np.float32)
        self.surface[where] = len(self.surfaces)
        self.normal[where] = normal
        self.surfaces.append(surface)


@dataclass(frozen=True)
class Alone:
    """An object as if nothing else were there: pixels of its mask, and whether it touches the image's border."""

    area: int
    at_border: bool


def cast(scene: Scene, samples: int = 1) -> Hits:
    """Send `samples` x `samples` rays through each pixel."""
    hits = _background(scene, samples)
    for number, window in _in_view(scene.camera, scene.solids):
        _add_solid(hits, scene, scene.solids[number], window)
    return hits


def alone(scene: Scene) -> dict[int, Alone]:
    """Each object in view without all others, for what is hidden or cut off of it."""
    height, width = scene.camera.height, scene.camera.width
    x, y = scene.camera.rays()
    masks: dict[int, np.ndarray] = {}
    for number, window in _in_view(scene.camera, scene.solids):
        part = scene.solids[number]
        if part.owner in scene.objects:
            mask = masks.setdefault(part.owner, np.zeros((height, width), bool))
            rows, columns = slice(*window[1::2]), slice(*window[::2])
            mask[rows, columns] |= _meet_solid(scene.camera, part, x[columns], y[rows])[1]
    return {owner: Alone(int(mask.sum()), _touches_border(mask)) for owner, mask in masks.items()}


def _touches_border(mask: np.ndarray) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _background(scene: Scene, samples: int) -> Hits:
    x, y = scene.camera.rays(samples)
    shape = (len(y), len(x))
    hits = Hits(
        x,
        y,
        np.full(shape, SKY_DEPTH, np.float32),
        np.zeros(shape, np.int16),
        np.zeros((*shape, 3), np.float32),
        samples,
    )
    hits.surfaces.append(Surface(scene.sky.owner, scene.sky.horizon, flat=1.0))
    elevation = np.float32(scene.camera.elevation)
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(y < 0, elevation / -y, np.inf)[:, None]  # depth of the ground (h, 1)
        if scene.room is not None:
            _add_room(hits, scene, floor)
            return hits
        floor = floor * np.ones_like(x)
        hits.put(scene.ground, floor, floor < SKY_DEPTH, (0, 1, 0))
        for patch in scene.patches:
            covered = (floor < SKY_DEPTH) & patch.covers(x * np.minimum(floor, SKY_DEPTH), floor)
            hits.surface[covered] = len(hits.surfaces)
            hits.surfaces.append(patch.surface)
    for sheet in scene.sheets:
        edge = sheet.edge(x * sheet.z)
        below = (elevation + sheet.z * y)[:, None] < edge
        slope = np.gradient(edge, x * sheet.z)
        normal = np.stack([-0.6 * slope, np.full_like(slope, 0.45), np.full_like(slope, -1)], axis=1)  # (w, 3)
        where = below & (sheet.z < hits.z)
        hits.put(sheet.surface, np.float32(sheet.z), where, np.broadcast_to(normal, (*where.shape, 3))[where])
    return hits


def _add_room(hits: Hits, scene: Scene, floor: np.ndarray) -> None:
    room, elevation = scene.room, scene.camera.elevation
    x, y = hits.x[None, :], hits.y[:, None]
    everywhere = np.ones_like(hits.z, bool)
    hits.put(room.wall, np.float32(room.back), everywhere, (0, 0, -1))
    side = np.where(x < 0, room.left / x, room.right / x).astype(np.float32)
    hits.put(room.wall, side, everywhere, (1, 0, 0))
    hits.normal[..., 0] *= -np.sign(x)
    above = np.where(y > 0, (room.height - elevation) / y, np.inf).astype(np.float32)
    hits.put(room.ceiling, above, everywhere, (0, -1, 0))
    hits.put(room.floor, floor, everywhere, (0, 1, 0))


def _in_view(camera: Camera, solids: Sequence[Solid]) -> list[tuple[int, np.ndarray]]:
    """Numbers of the solids that may be seen, nearest first, with the window of each."""
    if not solids:
        return []
    matrices = np.stack([part.matrix for part in solids])  # (n, 3, 3)
    offsets = np.stack([part.offset for part in solids])  # (n, 3)
    windows = camera.windows(CORNERS @ matrices.transpose(0, 2, 1) + offsets[:, None])
    visible = (windows[:, 2] > windows[:, 0]) & (windows[:, 3] > windows[:, 1])
    order = np.argsort(offsets[:, 2], kind="stable")
    return [(int(number), windows[number]) for number in order if visible[number]]


def _meet_solid(camera: Camera, part: Solid, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths at which rays with directions x (w,) and y (h,) enter a solid, and whether they do, (h, w)."""
    inverse = np.linalg.inv(part.matrix).astype(np.float32)
    origin = inverse @ (camera.origin - part.offset).astype(np.float32)
    direction = [row[0] * x + (row[1] * y + row[2])[:, None] for row in inverse]
    return meet(part.shape, origin, direction)


def _add_solid(hits: Hits, scene: Scene, part: Solid, window: np.ndarray) -> None:
    first_column, first_row, last_column, last_row = window * hits.samples
    rows, columns = slice(first_row, last_row), slice(first_column, last_column)
    x, y = hits.x[columns], hits.y[rows]
    z, hit = _meet_solid(scene.camera, part, x, y)
    nearer = hit & (z < hits.z[rows, columns])
    seen_rows, seen_columns = np.nonzero(nearer)
    if not len(seen_rows):
        return
    z = z[nearer].astype(np.float32)
    directions = np.stack([x[seen_columns], y[seen_rows], np.ones_like(z)], axis=1)  # (k, 3)
    points = scene.camera.origin + z[:, None] * directions
    inverse = np.linalg.inv(part.matrix)
    local = (points - part.offset) @ inverse.T
    hits.z[rows, columns][nearer] = z
    hits.surface[rows, columns][nearer] = len(hits.surfaces)
    hits.normal[rows, columns][nearer] = normals(part.shape, local) @ inverse  # inverse transposed, for rows
    hits.surfaces.append(part)
