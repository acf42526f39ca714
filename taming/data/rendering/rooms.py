"""Scenes indoors: what each kind of room is furnished with."""

from collections.abc import Callable

import numpy as np

from taming.data.rendering import animals, indoors
from taming.data.rendering.camera import Camera
from taming.data.rendering.captions import caption
from taming.data.rendering.outdoors import pick
from taming.data.rendering.scene import Room, Scene, Sky, Surface
from taming.data.rendering.shapes import Solid, solid
from taming.data.rendering.stage import Stage

WALLPAPERS = [(0.88, 0.84, 0.76), (0.72, 0.80, 0.82), (0.86, 0.74, 0.64), (0.78, 0.82, 0.70), (0.82, 0.78, 0.86)]
FLOORS = [(0.62, 0.44, 0.28), (0.70, 0.54, 0.36), (0.50, 0.34, 0.22)]
PAINTED = [("sheep", animals.sheep, 0.42), ("dog", animals.dog, 0.52), ("bird", animals.bird, 0.9)]
RUGS = [(0.70, 0.30, 0.25), (0.30, 0.40, 0.55), (0.80, 0.72, 0.55), (0.40, 0.48, 0.38)]


def _hang(stage: Stage, room: Room, kind: str, parts: list[Solid], x: float, y: float, **flags) -> int:
    """On the back wall, without a shadow."""
    return stage.place(kind, parts, (x, y, room.back - 0.06), shadow=0, **flags)


def _rug(stage: Stage, x: float, z: float, half_width: float, half_length: float) -> None:
    colour = pick(stage.rng, RUGS)
    border = tuple(0.72 * c for c in colour)
    stage.decorate("floor", [
        solid("cube", (0, 0.006, 0), (half_width, 0.006, half_length), border, grain=0.12),
        solid("cube", (0, 0.012, 0), (half_width - 0.12, 0.008, half_length - 0.12), colour, grain=0.12),
    ], (x, 0, z))  # fmt: skip


def painting(rng: np.random.Generator) -> tuple[list[Solid], str, list[Solid]]:
    """A frame, the kind of the animal on its canvas, and the animal, flattened to a relief."""
    kind, make, scale = PAINTED[int(rng.integers(len(PAINTED)))]
    flatten = np.diag([scale, scale, 0.03])
    parts = [part.transformed(flatten, (-0.02, 0.20, -0.06)) for part in make(rng)]
    return indoors.empty_frame(rng, (0.72, 0.82, 0.80)), kind, parts


def _picture(stage: Stage, room: Room, x: float, *, animal: bool = False) -> None:
    if not animal:
        _hang(stage, room, "picture", indoors.frame(stage.rng), x, 1.15)
        return
    frame, kind, depicted = painting(stage.rng)
    _hang(stage, room, "picture", frame, x, 1.15)
    _hang(stage, room, kind, depicted, x, 1.15, depicted=True)


def _pet(stage: Stage, x: float, z: float) -> None:
    rng = stage.rng
    kind = rng.choice(["cat", "dog"])
    make, scale = (animals.cat, 1.35) if kind == "cat" else (animals.dog, 1.0)
    yaw = rng.uniform(5, 30)
    stage.place(kind, make(rng), (x, 0, z), yaw=yaw if x < 0 else 180 - yaw, scale=scale)


def _living_room(stage: Stage, room: Room, depiction: bool) -> None:
    rng = stage.rng
    side = rng.choice([-1, 1])
    back = room.back
    _rug(stage, 0, back - 1.7, 1.25, 0.65)
    stage.place("couch", indoors.couch(rng), (-0.25 * side, 0, back - 0.55))
    stage.place("lamp", indoors.lamp(rng), (side * 1.35, 0, back - 0.45))
    stage.place("plant", indoors.plant(rng), (-side * 1.75, 0, back - 0.5), scale=rng.uniform(1.1, 1.4))
    _picture(stage, room, -0.25 * side + rng.uniform(-0.3, 0.3), animal=depiction)
    _pet(stage, side * rng.uniform(0.6, 1.0), back - 1.75)


def _bedroom(stage: Stage, room: Room, depiction: bool) -> None:
    rng = stage.rng
    side = rng.choice([-1, 1])
    back = room.back
    _rug(stage, -side * 0.9, back - 1.5, 0.7, 0.9)
    stage.place("bed", indoors.bed(rng), (side * 0.75, 0, back - 1.15))
    stage.place("lamp", indoors.lamp(rng), (-side * 0.55, 0, back - 0.4))
    _hang(stage, room, "window", indoors.window(rng), -side * 1.35, 0.85)
    _picture(stage, room, side * 0.8, animal=depiction)
    if rng.random() < 0.6:
        stage.place("chair", indoors.chair(rng), (-side * 1.5, 0, back - 0.8), yaw=-side * rng.uniform(10, 40))
    else:
        _pet(stage, -side * 0.95, back - 1.5)


def _dining_room(stage: Stage, room: Room, depiction: bool) -> None:
    rng = stage.rng
    back = room.back
    side = rng.choice([-1, 1])
    stage.place("table", indoors.table(rng), (0, 0, back - 1.3), yaw=rng.uniform(-6, 6))
    wood = np.random.PCG64(int(rng.integers(2**31)))
    for x, z, yaw in ((-1.05, -1.35, -75), (1.05, -1.25, 75), (0.3 * side, -0.55, 0)):
        chairs = np.random.Generator(wood)
        stage.place("chair", indoors.chair(chairs), (x, 0, back + z), yaw=yaw + rng.uniform(-12, 12))
    _hang(stage, room, "window", indoors.window(rng), side * 0.95, 0.9)
    _picture(stage, room, -side * 0.85, animal=depiction)
    stage.place("plant", indoors.plant(rng), (-side * 1.8, 0, back - 0.45), scale=1.3)


ROOMS: dict[str, Callable[[Stage, Room, bool], None]] = {
    "living_room": _living_room,
    "bedroom": _bedroom,
    "dining_room": _dining_room,
}


def room(rng: np.random.Generator, name: str, width: int, height: int, *, depiction: bool = False) -> Scene:
    """A random room of a kind, `width` x `height` pixels; `depiction`: its picture shows an animal."""
    camera = Camera(width, height, rng.uniform(1.25, 1.5), rng.uniform(0.40, 0.46))
    stage = Stage(camera, rng)
    sky = Sky(stage.background("sky"), (0.9, 0.9, 0.9), (0.9, 0.9, 0.9), (1.0, 0.97, 0.92))
    floor = Surface(stage.background("floor"), pick(rng, FLOORS), grain=0.10, finish="planks")
    wall = Surface(stage.background("wall"), pick(rng, WALLPAPERS), grain=0.03)
    ceiling = Surface(stage.background("ceiling"), (0.96, 0.95, 0.93), grain=0.02, flat=0.5)
    back = rng.uniform(5.0, 5.6)
    inside = Room(-rng.uniform(2.15, 2.4), rng.uniform(2.15, 2.4), back, 2.55, floor, wall, ceiling)
    ROOMS[name](stage, inside, depiction)
    scene = stage.scene(sky=sky, ground=floor, room=inside, sun=(-0.35, 0.75, -0.65), ambient=0.62)
    return caption(scene, name.replace("_", " "))
