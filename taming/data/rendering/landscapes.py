"""Scenes in the open: what each kind of landscape is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from taming.data.rendering import animals, outdoors, terrain
from taming.data.rendering.camera import Camera
from taming.data.rendering.captions import caption
from taming.data.rendering.outdoors import pick
from taming.data.rendering.scene import Colour, Patch, Scene, Sheet, Sky, Surface
from taming.data.rendering.shapes import Solid
from taming.data.rendering.stage import Stage

MAKERS: dict[str, Callable[[np.random.Generator], list[Solid]]] = {
    "tree": outdoors.tree,
    "fir": lambda rng: outdoors.tree(rng, kind="fir"),
    "bush": outdoors.bush,
    "flower": outdoors.flower,
    "house": outdoors.house,
    "building": outdoors.building,
    "car": outdoors.car,
    "ball": lambda rng: outdoors.ball(rng, football=False),
    "football": lambda rng: outdoors.ball(rng, football=True),
    "boat": outdoors.boat,
    "man": lambda rng: animals.person(rng, woman=False),
    "woman": lambda rng: animals.person(rng, woman=True),
    "person": animals.person,
    "dog": animals.dog,
    "cat": animals.cat,
    "sheep": animals.sheep,
    "bird": animals.bird,
}


@dataclass(frozen=True)
class Thing:
    """How often a kind of object stands in a landscape (least, most), at what depths, and how large."""

    kind: str
    count: tuple[int, int]
    near: float
    far: float
    half_width: float
    scale: tuple[float, float] = (0.9, 1.1)
    maker: str = ""
    """Key of MAKERS, if it is not the kind."""


@dataclass(frozen=True)
class Landscape:
    """place: what captions call it; ground: class of the ground; the others are added to it in their order."""

    place: str
    ground: str
    skies: Sequence[str]
    colours: Sequence[Colour]
    ridges: Callable[[Stage], list[Sheet]]
    waters: Callable[[Stage], list[Patch]] = lambda stage: []
    stuff: Sequence[Thing] = ()
    things: Sequence[Thing] = ()
    extras: Callable[[Stage], None] = lambda stage: None
    horizon: tuple[float, float] = (0.40, 0.50)
    elevation: tuple[float, float] = (1.2, 1.5)
    finish: str = "plain"
    flat: float = 0.0


LANDSCAPES = {
    "meadow": Landscape(
        "meadow",
        "grass",
        ("day", "morning"),
        terrain.GRASS,
        terrain.hills,
        terrain.path,
        stuff=(
            Thing("tree", (2, 3), 9, 20, 1.6),
            Thing("bush", (1, 2), 6, 12, 0.9),
            Thing("flower", (3, 4), 3.2, 5, 0.3),
        ),
        things=(
            Thing("sheep", (1, 3), 5, 10, 0.9),
            Thing("person", (0, 1), 5.5, 8, 0.5),
            Thing("dog", (0, 1), 4.5, 6.5, 0.8, (1.1, 1.4)),
        ),
    ),
    "swiss_mountains": Landscape(
        "mountain pasture",
        "grass",
        ("day", "morning"),
        terrain.GRASS,
        terrain.alps,
        stuff=(
            Thing("tree", (2, 4), 11, 24, 1.4),
            Thing("house", (1, 1), 14, 20, 3.4, (0.8, 1.0)),
            Thing("flower", (1, 3), 3.4, 5, 0.3),
        ),
        things=(Thing("sheep", (2, 4), 5.5, 11, 0.9),),
    ),
    "norway": Landscape(
        "fjord",
        "grass",
        ("day", "grey", "morning"),
        terrain.GRASS[-1:],
        terrain.fjord,
        terrain.fjord_water,
        stuff=(Thing("bush", (1, 3), 4.2, 5.6, 0.7, (0.5, 0.8)),),
        things=(Thing("boat", (1, 2), 11, 20, 1.9), Thing("bird", (1, 2), 3.6, 5, 0.35, (1.4, 1.8))),
    ),
    "lakes": Landscape(
        "lake shore",
        "grass",
        ("day", "morning", "evening"),
        terrain.GRASS,
        terrain.hills,
        terrain.lake_water,
        stuff=(Thing("tree", (1, 2), 5, 5.6, 1.3, (0.32, 0.42)), Thing("bush", (1, 2), 4, 5.2, 0.7, (0.6, 0.9))),
        things=(
            Thing("boat", (1, 2), 11, 18, 1.9),
            Thing("person", (1, 1), 4.8, 5.6, 0.5),
            Thing("dog", (1, 1), 4.6, 5.6, 0.7, (1.0, 1.3)),
        ),
    ),
    "desert": Landscape(
        "desert",
        "sand",
        ("evening", "day"),
        terrain.SAND,
        terrain.dune_ridges,
        extras=terrain.boulders,
        finish="dunes",
        stuff=(Thing("bush", (2, 3), 5, 14, 0.7, (0.4, 0.8)),),
        things=(
            Thing("car", (1, 1), 7, 10, 2.0),
            Thing("person", (1, 2), 5.5, 9, 0.5),
            Thing("bird", (0, 1), 4, 5, 0.35, (1.3, 1.7)),
        ),
    ),
    "cliff_ocean": Landscape(
        "rocky coast",
        "sand",
        ("day", "evening"),
        terrain.SAND[2:],
        terrain.cliffs,
        terrain.sea_and_beach,
        extras=terrain.sea_stacks,
        stuff=(),
        things=(
            Thing("boat", (1, 2), 14, 24, 1.9),
            Thing("person", (1, 2), 5, 7.5, 0.5),
            Thing("ball", (1, 1), 4.2, 6.5, 0.3, (1.0, 1.4)),
            Thing("dog", (0, 1), 4.8, 7, 0.7, (1.0, 1.3)),
        ),
    ),
    "snow": Landscape(
        "snowy valley",
        "snow",
        ("day", "grey", "morning"),
        (terrain.SNOW,),
        terrain.alps,
        flat=0.3,
        stuff=(Thing("tree", (3, 5), 8, 24, 1.4, maker="fir"), Thing("house", (0, 1), 14, 20, 3.4, (0.8, 1.0))),
        things=(Thing("person", (1, 2), 5, 9, 0.5), Thing("dog", (1, 1), 4.6, 7, 0.8, (1.0, 1.3))),
    ),
    "village": Landscape(
        "village street",
        "grass",
        ("day", "morning", "grey"),
        terrain.GRASS,
        terrain.hills,
        terrain.road_across,
        stuff=(
            Thing("house", (1, 2), 16, 21, 3.4, (0.85, 1.0)),
            Thing("tree", (2, 3), 13.5, 22, 1.7),
            Thing("bush", (1, 2), 12.8, 14, 0.8),
        ),
        things=(
            Thing("car", (1, 2), 8.2, 10.8, 2.0, (0.95, 1.0)),
            Thing("person", (1, 2), 4.8, 6.4, 0.5),
            Thing("dog", (0, 1), 4.4, 6, 0.7, (1.0, 1.3)),
            Thing("football", (0, 1), 4, 5.5, 0.3),
        ),
    ),
    "town": Landscape(
        "town street",
        "grass",
        ("day", "grey", "evening"),
        terrain.GRASS,
        terrain.hills,
        terrain.road_across,
        stuff=(Thing("building", (2, 3), 17, 24, 4.2), Thing("tree", (1, 3), 13, 15.5, 1.6, (0.8, 1.0))),
        things=(
            Thing("car", (1, 3), 8.2, 10.8, 2.0, (0.95, 1.0)),
            Thing("person", (1, 3), 4.8, 6.4, 0.5),
            Thing("dog", (0, 1), 4.4, 6, 0.7, (1.0, 1.2)),
        ),
    ),
    "park": Landscape(
        "park",
        "grass",
        ("day", "morning"),
        terrain.GRASS,
        terrain.hills,
        terrain.brook,
        stuff=(
            Thing("tree", (2, 4), 10, 20, 1.7),
            Thing("bush", (1, 2), 7, 12, 0.8),
            Thing("flower", (1, 3), 3.4, 5, 0.3),
        ),
        things=(
            Thing("person", (1, 2), 5, 8, 0.5),
            Thing("dog", (1, 1), 4.6, 6.5, 0.8, (1.1, 1.4)),
            Thing("cat", (0, 1), 4, 5.5, 0.5, (1.3, 1.6)),
            Thing("football", (0, 1), 3.8, 6, 0.3, (1.0, 1.3)),
            Thing("bird", (0, 2), 3.8, 5.5, 0.3, (1.3, 1.7)),
        ),
    ),
}
"""Name -> landscape; the first six are named after tags of S-FLCKR."""


def landscape(
    rng: np.random.Generator,
    name: str,
    width: int,
    height: int,
    *,
    things: bool = True,
    most_stuff: int = 99,
    elevation: float | None = None,
    near: float = 0.0,
    add: Callable[[Stage], None] | None = None,
) -> Scene:
    """A random landscape of a kind, `width` x `height` pixels.

    things: with people, animals, vehicles and balls; most_stuff: at most so many of each kind of object;
    elevation: the camera's, if not random; near: nothing but what `add` adds is closer. `add` puts more objects on the
    stage, before the things.
    """
    kind = LANDSCAPES[name]
    drawn = rng.uniform(*kind.elevation)
    camera = Camera(width, height, drawn if elevation is None else elevation, rng.uniform(*kind.horizon))
    stage = Stage(camera, rng)
    horizon, zenith, sunlight = terrain.SKIES[kind.skies[rng.integers(len(kind.skies))]]
    sky = Sky(stage.background("sky"), horizon, zenith, sunlight)
    ground = Surface(
        stage.background(kind.ground), pick(rng, list(kind.colours)), grain=0.16, flat=kind.flat, finish=kind.finish
    )
    sheets = sorted(kind.ridges(stage), key=lambda sheet: sheet.z)
    patches = kind.waters(stage)
    stage.waters = [patch for patch in patches if patch.surface.finish == "water"]
    terrain.clouds(stage)
    kind.extras(stage)
    if add is not None:
        add(stage)
    _furnish(stage, [*(kind.things if things else ()), *kind.stuff], most_stuff, near)
    sun = (rng.choice([-1, 1]) * rng.uniform(0.3, 0.7), rng.uniform(0.55, 0.8), -rng.uniform(0.5, 0.8))
    scene = stage.scene(sky=sky, ground=ground, patches=patches, sheets=sheets, sun=sun)
    return caption(scene, kind.place)


def _furnish(stage: Stage, things: Sequence[Thing], most: int, near: float) -> None:
    """Put up a random number of each thing, at most `most`, none closer than `near`."""
    for thing in things:
        low, high = (min(count, most) for count in thing.count)
        thing = replace(thing, near=max(thing.near, near), far=max(thing.far, 1.5 * near))
        for _ in range(int(stage.rng.integers(low, high + 1))):
            put(stage, thing)


def put(stage: Stage, thing: Thing, **options) -> int:
    """One more of a thing, where there is room; returns its number."""
    rng = stage.rng
    scale = rng.uniform(*thing.scale)
    x, z = stage.free_place(thing.near, thing.far, thing.half_width * scale, afloat=thing.kind == "boat")
    kind = thing.kind
    if kind == "person":
        kind = "woman" if rng.random() < 0.5 else "man"
    steady = kind in ("tree", "bush", "flower", "house", "building")
    yaw = rng.uniform(-12, 12) if steady else rng.uniform(-8, 28)
    turned = 180 - 2 * yaw if not steady and rng.random() < 0.5 else 0
    return stage.place(kind, MAKERS[thing.maker or kind](rng), (x, 0, z), yaw=yaw + turned, scale=scale, **options)


def flock(stage: Stage, kind: str, count: int, *, near: float, far: float, scale: float) -> int:
    """Many animals close together that count as one object; returns its number."""
    rng = stage.rng
    x, z = stage.free_place(near, far, 1.9 * scale)
    owner = None
    for row in range(count):
        at = (
            x + (row - (count - 1) / 2) * 0.75 * scale + rng.uniform(-0.1, 0.1),
            0,
            z + rng.uniform(-0.6, 0.6) * scale,
        )
        yaw = rng.uniform(0, 25) + (180 if rng.random() < 0.5 else 0)
        owner = stage.place(
            kind,
            MAKERS[kind](rng),
            at,
            yaw=yaw,
            scale=scale,
            member_of=owner,
            **({} if owner is not None else {"group": True}),
        )
    return owner
