"""Solids: affine images of five unit shapes, each within [-1, 1] in every direction and centred at 0.

A solid meets a ray in the unit shape's own space: the ray is taken there, its parameter stays the same.
n rays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
"""(8, 3): the hull of every unit shape is within these."""
Vector = Sequence[float] | np.ndarray
Rays = Sequence[np.ndarray]
"""Three components, which broadcast against each other."""


@dataclass(frozen=True)
class Solid:
    """The points matrix (3, 3) @ p + offset (3,) of a unit shape's points p.

    `colour` is RGB from 0 to 1; `grain` the strength of its texture; `flat` makes it shine by itself instead of being
    lit, from 0 to 1. `owner` is the number of the instance that it belongs to.
    """

    shape: str
    matrix: np.ndarray
    offset: np.ndarray
    colour: tuple[float, float, float]
    grain: float = 0.1
    flat: float = 0.0
    owner: int = -1

    def transformed(self, matrix: np.ndarray, offset: Vector = (0, 0, 0)) -> "Solid":
        """The solid after p -> matrix @ p + offset."""
        return replace(self, matrix=matrix @ self.matrix, offset=matrix @ self.offset + np.asarray(offset, float))


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Turn by roll about z (raises +x towards +y), then pitch about x, then yaw about y; in degrees."""
    a, b, c = np.deg2rad([yaw, pitch, roll])
    about_y = [[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(about_y) @ np.array(about_x) @ np.array(about_z)


def solid(shape: str, at: Vector, radii: Vector, colour: Vector, *, turn: np.ndarray | None = None, **look) -> Solid:
    """A unit shape scaled to `radii` (half its extent), turned, then moved to `at`."""
    matrix = np.diag(np.asarray(radii, float))
    return Solid(shape, matrix if turn is None else turn @ matrix, np.asarray(at, float), tuple(colour), **look)


def rod(start: Vector, end: Vector, radius: float, colour: Vector, *, shape: str = "cylinder", **look) -> Solid:
    """A cylinder, or another shape whose axis is y, from `start` to `end`."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / 2
    along = axis / np.linalg.norm(axis)
    aside = np.cross(along, [0, 0, 1.0] if abs(along[2]) < 0.9 else [1.0, 0, 0])
    aside /= np.linalg.norm(aside)
    matrix = np.stack([radius * aside, axis, radius * np.cross(aside, along)], axis=1)
    return Solid(shape, matrix, (start + end) / 2, tuple(colour), **look)


def meet(shape: str, origin: Vector, direction: Rays) -> tuple[np.ndarray, np.ndarray]:
    """Where rays enter a unit shape: parameters (n), infinite without a hit from outside, and whether they hit."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        enter, leave = SPANS[shape](origin, direction)
        hit = (enter <= leave) & (enter > 0)
    return np.where(hit, enter, np.inf), hit


def _sphere(origin: Vector, direction: Rays) -> tuple[np.ndarray, np.ndarray]:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    return _roots(a, b, ox * ox + oy * oy + oz * oz - 1)


def _roots(a: np.ndarray, b: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Where a t^2 + 2 b t + c is negative, for a > 0; (inf, -inf) where it is nowhere."""
    discriminant = b * b - a * c
    root = np.sqrt(discriminant.clip(0))
    empty = discriminant < 0
    return np.where(empty, np.inf, (-b - root) / a), np.where(empty, -np.inf, (root - b) / a)


def _slab(o: float, d: np.ndarray, low: float = -1.0, high: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Where o + t d lies between low and high."""
    d = np.where(d == 0, np.float32(1e-20), d)
    first, second = (low - o) / d, (high - o) / d
    return np.minimum(first, second), np.maximum(first, second)


def _both(*spans: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The common part of spans."""
    enter, leave = spans[0]
    for other_enter, other_leave in spans[1:]:
        enter, leave = np.maximum(enter, other_enter), np.minimum(leave, other_leave)
    return enter, leave


def _cube(origin: Vector, direction: Rays) -> tuple[np.ndarray, np.ndarray]:
    return _both(*(_slab(o, d) for o, d in zip(origin, direction, strict=True)))


def _cylinder(origin: Vector, direction: Rays) -> tuple[np.ndarray, np.ndarray]:
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    round_span = _roots(dx * dx + dz * dz + np.float32(1e-12), ox * dx + oz * dz, ox * ox + oz * oz - 1)
    return _both(round_span, _slab(oy, dy))


def _cone(origin: Vector, direction: Rays) -> tuple[np.ndarray, np.ndarray]:
    """Radius 1 at y = -1, apex at y = 1. Of the double cone's two spans only the lower nappe's is wanted."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    h, k = (1 - oy) / 2, -dy / 2  # the radius along the ray is h + k t
    a = dx * dx + dz * dz - k * k
    a = np.where(np.abs(a) < 1e-12, np.float32(1e-12), a)
    b = ox * dx + oz * dz - h * k
    c = ox * ox + oz * oz - h * h
    discriminant = b * b - a * c
    root = np.sqrt(discriminant.clip(0))
    first, second = np.minimum((-b - root) / a, (root - b) / a), np.maximum((-b - root) / a, (root - b) / a)
    # Rays steeper than the cone's flank (a < 0) are inside outside of the roots, in one nappe on each side.
    upwards = dy > 0
    enter = np.where(a > 0, first, np.where(upwards, -np.inf, second))
    leave = np.where(a > 0, second, np.where(upwards, first, np.inf))
    empty = (a > 0) & (discriminant < 0)
    return _both((np.where(empty, np.inf, enter), np.where(empty, -np.inf, leave)), _slab(oy, dy))


def _wedge(origin: Vector, direction: Rays) -> tuple[np.ndarray, np.ndarray]:
    """A gable roof: ridge along z at y = 1, from x = -1 to 1 at y = -1."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    flanks = (_slab(2 * side * ox + oy, 2 * side * dx + dy, -np.inf, 1.0) for side in (-1, 1))
    return _both(*flanks, _slab(oy, dy), _slab(oz, dz))


SPANS: dict[str, Callable[[Vector, Rays], tuple[np.ndarray, np.ndarray]]] = {
    "sphere": _sphere,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "wedge": _wedge,
}


def normals(shape: str, p: np.ndarray) -> np.ndarray:
    """Outward normals (n, 3), of any length, of a unit shape at points (n, 3) on its surface."""
    if shape == "sphere":
        return p
    x, y, z = p.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    if shape == "cube":
        return np.where(np.abs(p) >= np.abs(p).max(axis=1, keepdims=True), np.sign(p), 0)
    if shape == "wedge":
        flank = np.stack([2 * np.sign(x), one, zero], axis=1)
        end = np.stack([zero, zero, np.sign(z)], axis=1)
        return np.where((np.abs(z) > 0.9999)[:, None], end, np.where((y < -0.9999)[:, None], [0, -1, 0], flank))
    side = np.stack([x, zero if shape == "cylinder" else np.hypot(x, z) / 2, z], axis=1)
    cap = np.stack([zero, np.sign(y), zero], axis=1)
    on_cap = (np.abs(y) if shape == "cylinder" else -y) > 0.9999
    return np.where(on_cap[:, None], cap, side)
