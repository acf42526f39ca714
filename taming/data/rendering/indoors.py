"""Furniture as unions of solids, standing at the origin, or hanging at height 0; fronts towards -z; in metres."""

import numpy as np

from taming.data.rendering.outdoors import LEAVES, pick
from taming.data.rendering.shapes import Solid, rod, rotation, solid

WOODS = [(0.55, 0.35, 0.20), (0.72, 0.52, 0.32), (0.38, 0.24, 0.15)]
FABRICS = [
    (0.25, 0.42, 0.55),
    (0.62, 0.22, 0.20),
    (0.45, 0.52, 0.35),
    (0.80, 0.62, 0.30),
    (0.52, 0.45, 0.58),
    (0.70, 0.66, 0.60),
]
LINEN = (0.95, 0.94, 0.91)


def _legs(x: float, z: float, top: float, radius: float, colour) -> list[Solid]:
    return [rod((i * x, 0, j * z), (i * x, top, j * z), radius, colour) for i in (-1, 1) for j in (-1, 1)]


def chair(rng: np.random.Generator) -> list[Solid]:
    """With a back of slats."""
    wood, seat = pick(rng, WOODS), pick(rng, FABRICS)
    parts = [
        *_legs(0.19, 0.19, 0.45, 0.024, wood),
        solid("cube", (0, 0.46, 0), (0.23, 0.022, 0.23), wood),
        solid("sphere", (0, 0.485, -0.01), (0.225, 0.045, 0.225), seat, grain=0.05),
        solid("cube", (0, 0.93, 0.20), (0.22, 0.055, 0.02), wood),
        solid("cube", (0, 0.72, 0.20), (0.20, 0.03, 0.015), wood),
    ]
    for x in (-0.2, -0.07, 0.07, 0.2):
        parts.append(rod((x, 0.45, 0.20), (x, 0.93, 0.20), 0.018, wood))
    return parts


def table(rng: np.random.Generator) -> list[Solid]:
    """Laid with a bowl of fruit."""
    wood = pick(rng, WOODS)
    parts = [
        *_legs(0.62, 0.32, 0.72, 0.035, wood),
        solid("cube", (0, 0.735, 0), (0.75, 0.025, 0.42), wood, grain=0.14),
        rod((0, 0.86, 0), (0, 0.75, 0), 0.19, (0.90, 0.90, 0.94), shape="cone"),
        solid("cylinder", (0, 0.845, 0), (0.17, 0.02, 0.17), (0.90, 0.90, 0.94)),
    ]
    for x, colour in ((-0.08, (0.85, 0.15, 0.12)), (0.08, (0.95, 0.60, 0.10)), (0.0, (0.45, 0.65, 0.15))):
        parts.append(solid("sphere", (x, 0.90, -0.02 if x else 0.06), (0.075,) * 3, colour, grain=0.04))
    return parts


def couch(rng: np.random.Generator) -> list[Solid]:
    """Two seats with cushions."""
    fabric = pick(rng, FABRICS)
    cushion = pick(rng, [colour for colour in FABRICS if np.abs(np.subtract(colour, fabric)).max() > 0.12])
    light = tuple(min(1.0, 1.12 * c) for c in fabric)
    parts = [
        solid("cube", (0, 0.25, 0), (0.95, 0.13, 0.42), fabric, grain=0.05),
        solid("cube", (0, 0.55, 0.33), (0.95, 0.35, 0.10), fabric, grain=0.05),
        rod((-0.95, 0.90, 0.33), (0.95, 0.90, 0.33), 0.10, fabric, grain=0.05),
        *_legs(0.85, 0.32, 0.13, 0.035, (0.3, 0.2, 0.13)),
    ]
    for side in (-1, 1):
        parts.append(solid("cube", (side * 0.98, 0.36, 0), (0.12, 0.24, 0.42), fabric, grain=0.05))
        parts.append(rod((side * 0.98, 0.60, -0.42), (side * 0.98, 0.60, 0.42), 0.12, fabric, grain=0.05))
        parts.append(solid("sphere", (side * 0.43, 0.42, -0.03), (0.48, 0.13, 0.46), light, grain=0.05))
        turn = rotation(roll=side * 14, pitch=18)
        parts.append(solid("sphere", (side * 0.62, 0.64, 0.14), (0.22, 0.21, 0.09), cushion, turn=turn, grain=0.05))
    return parts


def bed(rng: np.random.Generator) -> list[Solid]:
    """Seen from its foot: headboard, two pillows, a blanket turned down."""
    wood, blanket = pick(rng, WOODS), pick(rng, FABRICS)
    parts = [
        solid("cube", (0, 0.55, 1.02), (0.90, 0.55, 0.05), wood, grain=0.14),
        solid("cube", (0, 0.22, 0), (0.88, 0.12, 1.0), wood, grain=0.14),
        solid("cube", (0, 0.42, 0), (0.85, 0.11, 0.98), LINEN, grain=0.03),
        solid("cube", (0, 0.44, -0.22), (0.88, 0.125, 0.80), blanket, grain=0.06),
        rod((-0.87, 0.545, 0.58), (0.87, 0.545, 0.58), 0.055, LINEN, grain=0.03),
        *_legs(0.80, 0.92, 0.12, 0.045, wood),
    ]
    for side in (-1, 1):
        parts.append(
            solid("sphere", (side * 0.42, 0.64, 0.80), (0.34, 0.15, 0.15), LINEN, turn=rotation(pitch=25), grain=0.03)
        )
    return parts


def lamp(rng: np.random.Generator) -> list[Solid]:
    """A floor lamp that is on."""
    shade = pick(rng, [(1.0, 0.90, 0.65), (0.98, 0.80, 0.55), (0.95, 0.92, 0.84)], 0.02)
    metal = (0.25, 0.24, 0.24)
    return [
        solid("cylinder", (0, 0.02, 0), (0.17, 0.02, 0.17), metal),
        rod((0, 0, 0), (0, 1.35, 0), 0.018, metal),
        rod((0, 1.20, 0), (0, 1.56, 0), 0.20, shade, flat=0.75, grain=0.02),
    ]


def plant(rng: np.random.Generator) -> list[Solid]:
    """Long leaves in a pot."""
    pot, green = pick(rng, [(0.72, 0.38, 0.24), (0.90, 0.88, 0.84), (0.30, 0.42, 0.52)]), pick(rng, LEAVES)
    parts = [
        rod((0, 0, 0), (0, 0.28, 0), 0.15, pot, grain=0.04),
        solid("cylinder", (0, 0.29, 0), (0.17, 0.03, 0.17), pot, grain=0.04),
        solid("cylinder", (0, 0.30, 0), (0.145, 0.025, 0.145), (0.22, 0.15, 0.10)),
    ]
    for angle in np.arange(11) / 11 * 2 * np.pi + rng.uniform(0, 1):
        lean, length = rng.uniform(0.25, 0.9), rng.uniform(0.42, 0.68)
        tip = np.array([np.cos(angle) * np.sin(lean), np.cos(lean), np.sin(angle) * np.sin(lean)]) * length
        shade = tuple(c * rng.uniform(0.85, 1.2) for c in green)
        parts.append(rod((0, 0.30, 0), np.add(tip, (0, 0.30, 0)), 0.055, shade, shape="sphere", grain=0.12))
    return parts


def window(rng: np.random.Generator) -> list[Solid]:
    """A frame with a view of sky and green, seen by day."""
    white = (0.96, 0.96, 0.95)
    return [
        solid("cube", (0, 0.6, 0), (0.62, 0.62, 0.05), white, grain=0.02),
        solid("cube", (0, 0.74, -0.03), (0.54, 0.40, 0.03), (0.62, 0.80, 0.95), flat=0.9, grain=0.02),
        solid("cube", (0, 0.20, -0.03), (0.54, 0.14, 0.03), (0.42, 0.62, 0.28), flat=0.8, grain=0.15),
        solid("sphere", (0.3, 0.36, -0.03), (0.20, 0.16, 0.035), (0.28, 0.50, 0.22), flat=0.8),
        solid("sphere", (-0.22, 0.92, -0.03), (0.20, 0.06, 0.034), (0.97, 0.98, 1.0), flat=1.0),
        solid("cube", (0, 0.6, -0.07), (0.025, 0.56, 0.02), white, grain=0.02),
        solid("cube", (0, 0.6, -0.07), (0.56, 0.025, 0.02), white, grain=0.02),
        solid("cube", (0, -0.04, -0.08), (0.72, 0.03, 0.12), white, grain=0.02),
    ]


def frame(rng: np.random.Generator) -> list[Solid]:
    """A picture in a frame: hills under a sun. Its canvas is at z = -0.04, 0.9 by 0.66 metres around (0, 0.42)."""
    hills = pick(rng, [(0.35, 0.50, 0.30), (0.30, 0.40, 0.55), (0.65, 0.45, 0.30)])
    sky = pick(rng, [(0.95, 0.85, 0.65), (0.70, 0.82, 0.92), (0.93, 0.70, 0.55)], 0.03)
    return [
        *empty_frame(rng, sky),
        solid("sphere", (-0.15, 0.19, -0.03), (0.28, 0.17, 0.022), hills, flat=0.4),
        solid("cube", (0, 0.16, -0.03), (0.45, 0.07, 0.021), hills, flat=0.4),
        solid("sphere", (0.2, 0.50, -0.03), (0.075, 0.075, 0.022), (0.95, 0.50, 0.25), flat=0.6),
    ]


def empty_frame(rng: np.random.Generator, canvas) -> list[Solid]:
    """The same without a picture."""
    wood = pick(rng, [(0.30, 0.20, 0.12), (0.72, 0.56, 0.25), (0.12, 0.12, 0.13)])
    edges = [
        ((0, 0.06), (0.53, 0.05)),
        ((0, 0.78), (0.53, 0.05)),
        ((-0.48, 0.42), (0.05, 0.41)),
        ((0.48, 0.42), (0.05, 0.41)),
    ]
    parts = [solid("cube", (*at, -0.02), (*half, 0.05), wood) for at, half in edges]
    return [*parts, solid("cube", (0, 0.42, -0.01), (0.47, 0.37, 0.03), canvas, flat=0.4, grain=0.03)]
