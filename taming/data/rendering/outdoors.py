"""Plants, houses, vehicles and balls as unions of solids, standing at the origin, fronts towards -z; in metres."""

import numpy as np

from taming.data.rendering.scene import Colour
from taming.data.rendering.shapes import Solid, rod, rotation, solid

GLASS = (0.42, 0.55, 0.66)
WINDOW = (0.55, 0.70, 0.82)
BARK = (0.38, 0.26, 0.17)
LEAVES = [(0.23, 0.47, 0.14), (0.31, 0.53, 0.17), (0.17, 0.41, 0.18), (0.42, 0.52, 0.16)]
AUTUMN = [(0.80, 0.45, 0.12), (0.72, 0.28, 0.10), (0.85, 0.65, 0.18)]
BLOSSOMS = [(0.90, 0.20, 0.25), (0.95, 0.80, 0.15), (0.75, 0.35, 0.80), (0.98, 0.98, 0.95), (0.95, 0.50, 0.65)]
WALLS = [(0.93, 0.88, 0.77), (0.80, 0.42, 0.32), (0.88, 0.74, 0.50), (0.70, 0.77, 0.82), (0.66, 0.18, 0.14)]
ROOFS = [(0.55, 0.22, 0.16), (0.35, 0.33, 0.36), (0.42, 0.28, 0.20)]
PAINTS = [
    (0.78, 0.10, 0.10),
    (0.12, 0.30, 0.65),
    (0.92, 0.92, 0.92),
    (0.95, 0.72, 0.10),
    (0.10, 0.48, 0.45),
    (0.25, 0.25, 0.28),
]


def pick(rng: np.random.Generator, colours: list[Colour], spread: float = 0.06) -> Colour:
    """One of the colours, a little lighter or darker."""
    factor = 1 + rng.uniform(-spread, spread)
    return tuple(min(1.0, factor * c) for c in colours[rng.integers(len(colours))])


def tree(rng: np.random.Generator, *, kind: str | None = None) -> list[Solid]:
    """Broad crowns on a trunk, or a fir of cones; 3.5 to 6 metres."""
    kind = kind or rng.choice(["broad", "broad", "fir"])
    height = rng.uniform(3.5, 6.0)
    return _fir(rng, height) if kind == "fir" else _broad_tree(rng, height)


def _fir(rng: np.random.Generator, height: float) -> list[Solid]:
    green = pick(rng, [(0.10, 0.30, 0.17), (0.12, 0.34, 0.22)])
    parts = [rod((0, 0, 0), (0, 0.4 * height, 0), 0.03 * height, BARK)]
    for level in range(4):
        low, high = (0.14 + 0.20 * level) * height, (0.50 + 0.17 * level) * height
        shade = tuple(c * (0.90 + 0.08 * level) for c in green)
        parts.append(
            rod(
                (0, low, 0), (0, min(high, height), 0), (0.25 - 0.047 * level) * height, shade, shape="cone", grain=0.25
            )
        )
    return parts


def _broad_tree(rng: np.random.Generator, height: float) -> list[Solid]:
    green = pick(rng, LEAVES if rng.random() < 0.85 else AUTUMN)
    parts = [rod((0, 0, 0), (0.02 * height, 0.55 * height, 0), 0.035 * height, BARK, grain=0.25)]
    middle, radius = 0.66 * height, 0.21 * height
    parts.append(solid("sphere", (0, middle, 0), (1.25 * radius, 1.2 * radius, 1.1 * radius), green, grain=0.3))
    for angle in np.arange(6) / 6 * 2 * np.pi + rng.uniform(0, 1):
        at = (0.85 * radius * np.cos(angle), middle + 0.62 * radius * np.sin(angle), rng.uniform(-0.6, 0.1) * radius)
        size = radius * rng.uniform(0.66, 0.84)
        shade = tuple(c * rng.uniform(0.9, 1.12) for c in green)
        parts.append(solid("sphere", at, (size, 0.92 * size, size), shade, grain=0.3))
    return parts


def bush(rng: np.random.Generator) -> list[Solid]:
    """Round, about a metre."""
    green = pick(rng, LEAVES)
    parts = []
    for x, lift in ((-0.45, 0.0), (-0.16, 0.34), (0.0, 0.0), (0.20, 0.26), (0.44, 0.0)):
        size = rng.uniform(0.30, 0.42)
        shade = tuple(c * rng.uniform(0.9, 1.1) for c in green)
        parts.append(
            solid("sphere", (x, 0.75 * size + lift, rng.uniform(-0.2, 0.1)), (size, size, size), shade, grain=0.3)
        )
    return parts


def flower(rng: np.random.Generator) -> list[Solid]:
    """A few blossoms on stems, which look towards the camera."""
    colour = pick(rng, BLOSSOMS)
    parts = []
    for x in np.linspace(-0.16, 0.16, int(rng.integers(2, 5))):
        top = np.array([x * 1.25, rng.uniform(0.28, 0.46), rng.uniform(-0.08, 0.08)])
        parts.append(rod((x, 0, 0), top, 0.009, (0.22, 0.45, 0.14)))
        parts.append(
            solid("sphere", (x + 0.03, 0.12, -0.02), (0.06, 0.022, 0.02), (0.25, 0.5, 0.16), turn=rotation(roll=35))
        )
        for angle in np.arange(6) / 6 * 2 * np.pi:
            petal = np.add(top, (0.045 * np.cos(angle), 0.045 * np.sin(angle), -0.01))
            parts.append(solid("sphere", petal, (0.036, 0.036, 0.018), colour, grain=0.03))
        parts.append(solid("sphere", np.add(top, (0, 0, -0.03)), (0.027, 0.027, 0.018), (0.90, 0.68, 0.12), grain=0.03))
    return parts


def house(rng: np.random.Generator) -> list[Solid]:
    """One storey of six metres, a gable roof, a door between two windows, a chimney. The right window is the last."""
    wall, roof = pick(rng, WALLS), pick(rng, ROOFS)
    parts = [
        solid("cube", (0, 1.35, 0), (3.0, 1.35, 2.2), wall, grain=0.05),
        solid("cube", (1.7, 4.0, 0.6), (0.28, 0.8, 0.28), (0.50, 0.30, 0.25)),
        solid("wedge", (0, 3.55, 0), (2.6, 0.9, 3.3), roof, turn=rotation(yaw=90), grain=0.12),
        solid("cube", (0, 0.95, -2.2), (0.48, 0.95, 0.06), (0.36, 0.20, 0.12)),
        solid("sphere", (0.3, 0.95, -2.29), (0.05, 0.05, 0.05), (0.85, 0.75, 0.35)),
        solid("cube", (0, 0.06, -2.6), (0.7, 0.06, 0.4), (0.60, 0.58, 0.55)),
    ]
    for x in (-1.75, 1.75):
        parts += house_window(x, 1.5, -2.2)
    return parts


def house_window(x: float, y: float, z: float) -> list[Solid]:
    """A window of a house: frame, bars in front of the pane, the pane."""
    white = (0.95, 0.95, 0.93)
    return [
        solid("cube", (x, y, z), (0.66, 0.62, 0.05), white),
        solid("cube", (x, y, z - 0.08), (0.035, 0.55, 0.02), white),
        solid("cube", (x, y, z - 0.08), (0.58, 0.03, 0.02), white),
        solid("cube", (x, y, z - 0.03), (0.58, 0.54, 0.045), GLASS, flat=0.3),
    ]


def building(rng: np.random.Generator) -> list[Solid]:
    """Flats with rows of windows, 6 to 15 metres high."""
    wall = pick(rng, [(0.72, 0.62, 0.52), (0.62, 0.64, 0.68), (0.70, 0.45, 0.36), (0.80, 0.78, 0.72)])
    floors, columns = int(rng.integers(2, 6)), int(rng.integers(3, 5))
    half_width, height = 1.1 * columns, 2.8 * floors + 0.4
    parts = [
        solid("cube", (0, height / 2, 0), (half_width, height / 2, 2.5), wall, grain=0.05),
        solid("cube", (0, height, 0), (half_width + 0.15, 0.15, 2.65), tuple(0.75 * c for c in wall)),
    ]
    for floor in range(floors):
        for column in range(columns):
            x = (2 * column - columns + 1) * 1.1
            pane = (0.96, 0.86, 0.55) if rng.random() < 0.12 else WINDOW
            parts.append(solid("cube", (x, 2.8 * floor + 1.7, -2.5), (0.62, 0.78, 0.03), (0.92, 0.91, 0.88)))
            parts.append(solid("cube", (x, 2.8 * floor + 1.7, -2.52), (0.52, 0.68, 0.04), pane, flat=0.35, grain=0.03))
    return parts


def car(rng: np.random.Generator) -> list[Solid]:
    """Seen from its side, 3.9 metres long, its bonnet towards +x."""
    paint = pick(rng, PAINTS)
    parts = [
        solid("cube", (0, 0.62, 0), (1.86, 0.27, 0.80), paint, grain=0.03),
        solid("sphere", (1.45, 0.66, 0), (0.55, 0.29, 0.79), paint, grain=0.03),
        solid("sphere", (-1.45, 0.66, 0), (0.55, 0.30, 0.79), paint, grain=0.03),
        _trapezium((-0.18, 1.10, 0), (0.98, 0.27, 0.70), paint),
        _trapezium((-0.50, 1.11, 0), (0.45, 0.21, 0.73), GLASS, front=0.0),
        _trapezium((0.25, 1.11, 0), (0.34, 0.21, 0.73), GLASS, back=0.0),
        solid("sphere", (1.90, 0.70, -0.58), (0.08, 0.10, 0.14), (1.0, 0.96, 0.75), flat=0.5),
        solid("sphere", (-1.90, 0.72, -0.58), (0.07, 0.09, 0.14), (0.80, 0.08, 0.06), flat=0.3),
        solid("cube", (0, 0.40, 0), (1.84, 0.08, 0.78), (0.16, 0.16, 0.17)),
        solid("cube", (-0.05, 0.76, 0), (0.11, 0.022, 0.82), (0.20, 0.20, 0.22)),
    ]
    for x in (-1.15, 1.18):
        for z in (-0.66, 0.66):
            outer = z + np.sign(z) * 0.20
            parts.append(rod((x, 0.33, z - 0.17), (x, 0.33, z + 0.17), 0.335, (0.08, 0.08, 0.09)))
            parts.append(rod((x, 0.33, z), (x, 0.33, outer), 0.18, (0.72, 0.73, 0.75)))
    return parts


def _trapezium(at, radii, colour: Colour, *, front: float = 0.40, back: float = 0.30) -> Solid:
    """A box sheared along x, so that its front and back lean: towards each other it would need more planes."""
    matrix = np.diag(np.asarray(radii, float))
    matrix[0, 1] = (back - front) / 2 * radii[1]
    return Solid("cube", matrix, np.asarray(at, float), tuple(colour), grain=0.03)


def ball(rng: np.random.Generator, *, football: bool | None = None) -> list[Solid]:
    """A football with dark spots, or a striped beach ball."""
    r = 0.24
    football = rng.random() < 0.5 if football is None else football
    if football:
        parts = [solid("sphere", (0, r, 0), (r, r, r), (0.95, 0.95, 0.95), grain=0.02)]
        for yaw, pitch in (
            (0, 8),
            (62, -14),
            (-62, -10),
            (125, 20),
            (-122, 24),
            (28, 62),
            (-40, 68),
            (20, -58),
            (-36, -50),
        ):
            turn = rotation(yaw=yaw, pitch=pitch)
            parts.append(
                solid(
                    "sphere",
                    np.array([0, r, 0]) + turn @ [0, 0, -0.9 * r],
                    (0.34 * r, 0.34 * r, 0.12 * r),
                    (0.1, 0.1, 0.12),
                    turn=turn,
                )
            )
        return parts
    first, second = pick(rng, PAINTS[:2] + PAINTS[3:5]), (0.96, 0.95, 0.92)
    parts = [solid("sphere", (0, r, 0), (r, r, r), second, grain=0.02)]
    tilt = rotation(roll=25, pitch=-20)
    for yaw in (0, 60, 120):
        parts.append(
            solid("sphere", (0, r, 0), (1.03 * r, 1.03 * r, 0.30 * r), first, turn=tilt @ rotation(yaw=yaw), grain=0.02)
        )
    return parts


def boat(rng: np.random.Generator) -> list[Solid]:
    """A sailing boat, half its hull under the waterline at height 0; its bow towards +x."""
    hull = pick(rng, PAINTS[:3] + PAINTS[3:5])
    sail = (0.97, 0.95, 0.90)
    return [
        solid("sphere", (0, 0.12, 0), (1.7, 0.42, 0.55), hull, grain=0.03),
        solid("cube", (-0.1, 0.50, 0), (1.22, 0.06, 0.34), (0.72, 0.52, 0.32)),
        solid("cube", (-0.45, 0.66, 0), (0.42, 0.16, 0.26), (0.94, 0.93, 0.90)),
        rod((0.25, 0.4, 0), (0.25, 3.5, 0), 0.04, (0.45, 0.32, 0.2)),
        _sail((-0.52, 2.0, 0), 0.72, 1.35, sail, lean=1.0),
        _sail((0.78, 1.75, 0), 0.46, 1.10, (0.90, 0.35, 0.25) if rng.random() < 0.5 else sail, lean=-1.0),
        rod((-1.2, 0.72, 0), (0.25, 0.72, 0), 0.03, (0.45, 0.32, 0.2)),
    ]


def _sail(at, half_width: float, half_height: float, colour: Colour, *, lean: float) -> Solid:
    """A triangle whose mast is upright on the side where `lean` points."""
    matrix = np.diag([half_width, half_height, 0.015])
    matrix[0, 1] = lean * half_width / 2
    offset = np.add(at, (lean * half_width / 2, 0, 0))
    return Solid("wedge", matrix, offset, colour, grain=0.03, flat=0.25)


def mound(rng: np.random.Generator, colour: Colour) -> list[Solid]:
    """A low boulder."""
    parts = []
    for _ in range(3):
        at = (rng.uniform(-0.4, 0.4), rng.uniform(0.0, 0.15), rng.uniform(-0.2, 0.2))
        parts.append(
            solid("sphere", at, rng.uniform((0.35, 0.2, 0.3), (0.6, 0.4, 0.45)), pick(rng, [colour]), grain=0.25)
        )
    return parts


def cloud(rng: np.random.Generator) -> list[Solid]:
    """Puffs above a flat base, about ten metres wide."""
    white = (0.98, 0.98, 1.0)
    parts = []
    for x in np.linspace(-5, 5, int(rng.integers(5, 8))):
        size = 2.6 * np.cos(x / 7) * rng.uniform(0.7, 1.1)
        parts.append(
            solid(
                "sphere",
                (x, 0.4 * size, rng.uniform(-0.5, 0.5)),
                (1.25 * size, 0.62 * size, size),
                white,
                flat=0.8,
                grain=0.03,
            )
        )
    return parts
