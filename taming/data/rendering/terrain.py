"""What lies on the ground of landscapes and behind it: ridges, waters, roads, clouds and rocks."""

import numpy as np

from taming.data.rendering import outdoors
from taming.data.rendering.outdoors import pick
from taming.data.rendering.scene import Colour, Patch, Sheet, Surface
from taming.data.rendering.stage import VIEW, Stage

SKIES = {
    "day": ((0.78, 0.88, 0.96), (0.30, 0.54, 0.86), (1.0, 1.0, 1.0)),
    "morning": ((0.95, 0.90, 0.80), (0.46, 0.64, 0.88), (1.05, 0.98, 0.88)),
    "evening": ((0.98, 0.78, 0.60), (0.42, 0.46, 0.72), (1.1, 0.92, 0.74)),
    "grey": ((0.86, 0.88, 0.90), (0.60, 0.67, 0.75), (0.95, 0.96, 1.0)),
}
"""Colour at the horizon, at the top, and of the sunlight."""
GRASS = [(0.40, 0.58, 0.24), (0.46, 0.62, 0.26), (0.52, 0.60, 0.30), (0.35, 0.52, 0.24)]
SAND = [(0.87, 0.75, 0.52), (0.85, 0.66, 0.42), (0.90, 0.80, 0.62)]
ROCK = [(0.48, 0.46, 0.46), (0.52, 0.46, 0.40), (0.42, 0.44, 0.50)]
WATER = [(0.14, 0.36, 0.52), (0.12, 0.40, 0.50), (0.16, 0.32, 0.48)]
SNOW = (0.93, 0.95, 0.99)
ASPHALT = (0.36, 0.36, 0.38)


def ridge(
    stage: Stage,
    kind: str,
    colour: Colour,
    z: float,
    height: float,
    *,
    rough: float,
    snow: float = np.inf,
    valley: float = 0.0,
    side: float = 0.0,
) -> Sheet:
    """A ridge `height` (a share of the image's height) above the horizon on average.

    rough: strength of its short waves; valley: how deep it dips in the middle; side: how far it falls towards the left
    (negative) or the right; snow lies above this share of its height.
    """
    rng, camera = stage.rng, stage.camera
    rise = height * camera.height / camera.focal * z
    span = 2 * VIEW * z
    waves = [(0.30 * rise, 0.9 / span, rng.random()), (0.14 * rise, 2.3 / span, rng.random())]
    waves += [(rough * 0.10 * rise, 4.7 / span, rng.random()), (rough * 0.05 * rise, 9.1 / span, rng.random())]
    if valley:
        waves[0] = (valley * rise, 1 / span, -0.25)
    if side:
        waves[0] = (abs(side) * rise, 0.5 / span, 0.0 if side > 0 else 0.5)
    surface = Surface(
        stage.background(kind),
        pick(rng, [colour]),
        grain=0.12,
        finish="rock" if kind == "mountain" else "plain",
        snow=camera.elevation + snow * rise,
    )
    return Sheet(surface, z, camera.elevation + rise, waves)


def hills(stage: Stage) -> list[Sheet]:
    colour = GRASS[stage.rng.integers(len(GRASS))]
    far = tuple(0.85 * c for c in colour)
    return [ridge(stage, "hill", far, 60, 0.11, rough=0.5), ridge(stage, "hill", colour, 34, 0.05, rough=0.3)]


def alps(stage: Stage) -> list[Sheet]:
    rock = ROCK[stage.rng.integers(len(ROCK))]
    return [
        ridge(stage, "mountain", rock, 76, 0.24, rough=1.5, snow=0.95),
        ridge(stage, "mountain", tuple(0.85 * c for c in rock), 56, 0.13, rough=1.3, snow=1.9),
        ridge(stage, "hill", (0.28, 0.44, 0.22), 36, 0.045, rough=0.5),
    ]


def fjord(stage: Stage) -> list[Sheet]:
    rock = ROCK[stage.rng.integers(len(ROCK))]
    return [
        ridge(stage, "mountain", rock, 78, 0.15, rough=1.4, snow=0.9),
        ridge(stage, "mountain", (0.36, 0.40, 0.36), 58, 0.17, rough=1.2, valley=-0.85, snow=1.5),
        ridge(stage, "mountain", (0.30, 0.38, 0.28), 42, 0.09, rough=1.0, valley=-1.15),
    ]


def cliffs(stage: Stage) -> list[Sheet]:
    side = stage.rng.choice([-1, 1])
    rock = (0.58, 0.52, 0.45)
    return [
        ridge(stage, "mountain", rock, 55, 0.03, rough=2.5, side=3.0 * side),
        ridge(stage, "mountain", rock, 34, 0.015, rough=5.0, side=11.0 * side),
    ]


def dune_ridges(stage: Stage) -> list[Sheet]:
    colour = SAND[stage.rng.integers(len(SAND))]
    return [
        ridge(stage, "mountain", (0.62, 0.40, 0.30), 78, 0.12, rough=1.2),
        ridge(stage, "hill", tuple(0.93 * c for c in colour), 50, 0.07, rough=0.2),
        ridge(stage, "hill", colour, 33, 0.025, rough=0.2),
    ]


def _water(stage: Stage, kind: str) -> Surface:
    return Surface(stage.background(kind), pick(stage.rng, WATER), grain=0.05, finish="water")


def _shore(stage: Stage, near: float) -> list[tuple[float, float, float]]:
    rng = stage.rng
    return [(0.12 * near, 0.5 / near, rng.random()), (0.05 * near, 1.3 / near, rng.random())]


def fjord_water(stage: Stage) -> list[Patch]:
    near = stage.rng.uniform(6, 8)
    return [Patch(_water(stage, "sea"), near, waves=_shore(stage, near))]


def lake_water(stage: Stage) -> list[Patch]:
    near = stage.rng.uniform(5.5, 7)
    return [Patch(_water(stage, "river"), near, end=stage.rng.uniform(26, 32), waves=_shore(stage, near))]


def sea_and_beach(stage: Stage) -> list[Patch]:
    near = stage.rng.uniform(8, 10)
    foam = Surface(stage.background("sea"), (0.93, 0.96, 0.97), grain=0.04)
    waves = _shore(stage, near)
    return [Patch(foam, near - 0.35, waves=waves), Patch(_water(stage, "sea"), near, waves=waves)]


def brook(stage: Stage) -> list[Patch]:
    rng = stage.rng
    slope = rng.choice([-1, 1]) * rng.uniform(0.10, 0.25)
    start = -np.sign(slope) * rng.uniform(1.0, 2.0)
    return [
        Patch(_water(stage, "river"), start, 2.6, slope, waves=[(0.9, 0.05, rng.random()), (0.4, 0.13, rng.random())])
    ]


def road_across(stage: Stage) -> list[Patch]:
    road = Surface(stage.background("road"), ASPHALT, grain=0.08)
    kerb = Surface(road.owner, (0.66, 0.65, 0.63), grain=0.05)
    line = Surface(road.owner, (0.90, 0.90, 0.88), grain=0.03)
    return [Patch(kerb, 6.6, end=12.4), Patch(road, 7.2, end=11.8), Patch(line, 9.35, end=9.6)]


def path(stage: Stage) -> list[Patch]:
    rng = stage.rng
    colour = Surface(stage.background("road"), (0.72, 0.64, 0.50), grain=0.12)
    return [Patch(colour, rng.uniform(-0.8, 0.8), 1.5, rng.uniform(-0.12, 0.12), waves=[(0.6, 0.06, rng.random())])]


def clouds(stage: Stage) -> None:
    for _ in range(int(stage.rng.integers(2, 5))):
        x, y = stage.rng.uniform(-36, 36), stage.rng.uniform(14, 30)
        scale = stage.rng.uniform(0.7, 1.3)
        stage.decorate(
            "clouds", outdoors.cloud(stage.rng), (x, y * stage.camera.height / stage.camera.width, 90), scale=scale
        )


def sea_stacks(stage: Stage) -> None:
    """Rocks in the surf."""
    rng = stage.rng
    for _ in range(int(rng.integers(3, 6))):
        x, z = stage.free_place(13, 26, 1.5, afloat=True)
        stage.decorate("mountain", outdoors.mound(rng, (0.50, 0.45, 0.40)), (x, 0, z), scale=rng.uniform(1.2, 3.0))


def boulders(stage: Stage) -> None:
    rng = stage.rng
    for _ in range(int(rng.integers(2, 5))):
        x, z = stage.free_place(5, 16, 0.7)
        stage.decorate("hill", outdoors.mound(rng, (0.70, 0.52, 0.40)), (x, 0, z), scale=rng.uniform(0.5, 1.4))
