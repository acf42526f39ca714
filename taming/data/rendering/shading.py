"""Light: from what rays meet to an image.

(h, w) rays; colours are RGB from 0 to 1.
"""

from dataclasses import dataclass

import numpy as np
from einops import reduce

from taming.data.rendering.caster import Hits
from taming.data.rendering.noise import fractal, noise
from taming.data.rendering.scene import SKY_DEPTH, Scene, Shadow

SNOW = np.array([0.95, 0.97, 1.0], np.float32)
BAND = 2**17
"""Rays that are shaded at a time: what is in work then stays in the cache."""


@dataclass(frozen=True)
class Points:
    """Where rays meet surfaces: coordinates (h, w) or (n,) each."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


def shade(scene: Scene, hits: Hits) -> np.ndarray:
    """The image of a scene, uint8 (H, W, 3): the mean of each pixel's rays."""
    light = _shadows(scene, hits)
    rows_at_a_time = max(BAND // (hits.samples**2 * scene.camera.width), 1)
    step = rows_at_a_time * hits.samples
    bands = (slice(top, top + step) for top in range(0, len(hits.y), step))
    return np.concatenate([_shade_band(scene, hits.rows(band), light[band]) for band in bands])


def _shade_band(scene: Scene, hits: Hits, shadow: np.ndarray) -> np.ndarray:
    """Some rows of the image, given how much light the ground gets (h, w)."""
    points = Points(hits.x * hits.z, scene.camera.elevation + hits.y[:, None] * hits.z, hits.z)
    colours = np.array([surface.colour for surface in hits.surfaces], np.float32)[hits.surface]
    flat = np.array([surface.flat for surface in hits.surfaces], np.float32)[hits.surface]
    colours = _finished(colours, scene, hits, points)
    lit = _light(scene, hits, points, shadow)
    colours = colours * (flat[..., None] + (1 - flat[..., None]) * lit)
    if scene.room is None:
        colours = _through_air(colours, flat, scene, hits, points)
    colours = reduce(colours.clip(0, 1), "(h i) (w j) c -> h w c", "mean", i=hits.samples, j=hits.samples)
    return np.round(colours * 255).astype(np.uint8)


def _light(scene: Scene, hits: Hits, points: Points, shadow: np.ndarray) -> np.ndarray:
    """Ambient and diffuse light (h, w, 3), less in shadows and in a room's corners."""
    sun = np.asarray(scene.sun, np.float32) / np.linalg.norm(scene.sun)
    length = np.sqrt(np.einsum("hwc,hwc->hw", hits.normal, hits.normal)).clip(1e-6)
    diffuse = (hits.normal @ sun / length).clip(0, 1) * (1 - scene.ambient)
    if scene.room is not None:
        shadow = shadow * _corners(scene, hits, points)
    sunlight = np.asarray(scene.sky.sunlight, np.float32)
    return (scene.ambient + diffuse[..., None] * sunlight) * shadow[..., None]


def _shadows(scene: Scene, hits: Hits) -> np.ndarray:
    """How much light the ground gets (h, w), from 0 to 1."""
    light = np.ones_like(hits.z)
    if not scene.shadows:
        return light
    corners = [[(s.x + i * s.radius_x, 0.0, s.z + j * s.radius_z) for i in (-1, 1) for j in (-1, 1)]
               for s in scene.shadows]  # fmt: skip
    for shadow, window in zip(scene.shadows, scene.camera.windows(np.array(corners)), strict=True):
        columns, rows = slice(*window[::2] * hits.samples), slice(*window[1::2] * hits.samples)
        light[rows, columns] *= _shadow(scene, shadow, hits, rows, columns)
    return light


def _shadow(scene: Scene, shadow: Shadow, hits: Hits, rows: slice, columns: slice) -> np.ndarray:
    z = hits.z[rows, columns]
    on_ground = np.abs(scene.camera.elevation + hits.y[rows, None] * z) < 0.02
    x = (hits.x[columns] * z - shadow.x) / shadow.radius_x
    inside = (1 - x * x - ((z - shadow.z) / shadow.radius_z) ** 2).clip(0)
    return 1 - shadow.strength * on_ground * np.sqrt(inside)


def _corners(scene: Scene, hits: Hits, points: Points) -> np.ndarray:
    """Less light where two or three sides of a room meet (h, w)."""
    room = scene.room
    gaps = [points.x - room.left, room.right - points.x, room.back - points.z, points.y, room.height - points.y]
    nearest = np.sort(np.stack(gaps), axis=0)[1].clip(0)  # to the side that is the second closest
    background = hits.surface <= 4
    return np.where(background, 1 - 0.35 * np.exp(-nearest / 0.35), 1).astype(np.float32)


def _finished(colours: np.ndarray, scene: Scene, hits: Hits, points: Points) -> np.ndarray:
    """Surfaces' own colours (h, w, 3) with their textures."""
    grain = np.array([surface.grain for surface in hits.surfaces], np.float32)[hits.surface]
    fading = 1 / (1 + points.z / 25)
    texture = fractal(1.7 * points.x, 1.7 * points.y, 1.7 * points.z) * 0.6
    texture += noise(9.0 * points.x, 9.0 * points.y, 9.0 * points.z) * fading * 0.7
    colours = colours * (1 + (grain * texture))[..., None]
    for number, surface in enumerate(hits.surfaces):
        finish = FINISHES.get(getattr(surface, "finish", "plain"))
        if finish is None:
            continue
        where = hits.surface == number
        if where.any():
            seen = Points(*(values[where] for values in (points.x, points.y, points.z)))
            colours[where] = finish(colours[where], seen, scene, surface)
    return colours


def _water(colours: np.ndarray, points: Points, scene: Scene, surface) -> np.ndarray:
    """More of the sky's colour at grazing angles, and ripples."""
    grazing = np.clip(1 - scene.camera.elevation * 3.2 / (scene.camera.elevation + points.z), 0.05, 1)[:, None]
    mirrored = np.asarray(scene.sky.horizon, np.float32) * 0.9
    ripples = noise(0.6 * points.x, points.y, 3.0 * points.z) + noise(1.9 * points.x, points.y, 8.0 * points.z)
    fading = 1 / (1 + points.z / 30)
    return (colours * (1 - 0.55 * grazing) + mirrored * 0.55 * grazing) * (1 + 0.07 * ripples * fading)[:, None]


def _planks(colours: np.ndarray, points: Points, scene: Scene, surface) -> np.ndarray:
    """Boards of 18 cm along z, each of its own shade, with dark gaps."""
    board = np.floor(points.x / 0.18)
    shade = 1 + 0.10 * np.sin(board * 12.9898)
    gap = np.where(np.abs(points.x / 0.18 - board - 0.5) > 0.47, 0.78, 1.0)
    return colours * (shade * gap)[:, None]


def _rock(colours: np.ndarray, points: Points, scene: Scene, surface) -> np.ndarray:
    """Folds, light and dark, and snow on top."""
    scale = 6.0 / points.z
    folds = fractal(scale * 3.0 * points.x + scale * points.y, 1.2 * scale * points.y, 0 * points.z)
    colours = colours * (1 + 0.32 * folds)[:, None]
    snowy = ((points.y - surface.snow) / (0.12 * points.z) + 1.1 * folds > 0)[:, None]
    return np.where(snowy, SNOW * (1 + 0.16 * folds)[:, None], colours)


def _dunes(colours: np.ndarray, points: Points, scene: Scene, surface) -> np.ndarray:
    """Ripples across, as wind makes them."""
    bend = noise(0.15 * points.x, points.y, 0.15 * points.z) * 2
    ripple = np.sin(2.2 * points.z + 0.5 * points.x + 2 * bend) / (1 + points.z / 12)
    return colours * (1 + 0.07 * ripple)[:, None]


FINISHES = {"water": _water, "planks": _planks, "rock": _rock, "dunes": _dunes}


def _through_air(colours: np.ndarray, flat: np.ndarray, scene: Scene, hits: Hits, points: Points) -> np.ndarray:
    """The sky, brighter towards the horizon, and its haze in front of everything else."""
    horizon, zenith = (np.asarray(c, np.float32) for c in (scene.sky.horizon, scene.sky.zenith))
    height = np.sqrt((hits.y / 0.45).clip(0, 1))[:, None, None]
    sky = horizon + (zenith - horizon) * height
    clear = np.exp(-points.z / np.float32(scene.sky.haze))
    clear = clear + (1 - clear) * flat
    hazy = horizon + (colours - horizon) * clear[..., None]
    return np.where((hits.z >= SKY_DEPTH)[..., None] & (hits.surface == 0)[..., None], sky, hazy)
