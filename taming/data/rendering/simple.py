"""The simple world: few kinds of objects in strong colours, which a small model can learn to paint in minutes.

No colour but the sky's is bright in all three channels, so the darkest channel of a pixel tells how much haze is before
it, thus its depth (the dark channel of He et al. 2009), and its hue tells what it is.
"""

import numpy as np

from taming.data.rendering.camera import Camera
from taming.data.rendering.captions import caption
from taming.data.rendering.scene import Patch, Scene, Sky, Surface
from taming.data.rendering.shapes import Solid, rod, rotation, solid
from taming.data.rendering.stage import Stage

HAZE = 22.0
"""Metres in which a colour falls to 1/e; stronger than in the open."""
AMBIENT = 0.72
COLOURS = {
    "sky": (0.90, 0.92, 0.95),
    "grass": (0.38, 0.72, 0.06),
    "sand": (0.92, 0.72, 0.06),
    "heather": (0.66, 0.06, 0.66),
    "sea": (0.04, 0.52, 0.66),
    "tree": (0.04, 0.30, 0.10),
    "house": (0.95, 0.42, 0.05),
    "ball": (0.88, 0.05, 0.10),
    "car": (0.06, 0.20, 0.88),
}
"""Label -> its one colour, unlit and close by."""
OBJECTS = ("ball", "car", "house", "tree")
GROUNDS = {"meadow": "grass", "desert": "sand", "heath": "heather", "coast": "sand"}
"""Kind of scene -> label of its ground; at the coast the sea lies behind it."""


def _ball(rng: np.random.Generator) -> list[Solid]:
    return [solid("sphere", (0, 0.6, 0), (0.6, 0.6, 0.6), COLOURS["ball"], grain=0.03)]


def _car(rng: np.random.Generator) -> list[Solid]:
    return [
        solid("cube", (0, 0.45, 0), (1.3, 0.33, 0.6), COLOURS["car"], grain=0.03),
        solid("sphere", (-0.1, 0.80, 0), (0.85, 0.5, 0.55), COLOURS["car"], grain=0.03),
        *(rod((x, 0.26, -0.68), (x, 0.26, 0.68), 0.27, (0.03, 0.11, 0.60)) for x in (-0.8, 0.8)),
    ]


def _house(rng: np.random.Generator) -> list[Solid]:
    colour = COLOURS["house"]
    return [
        solid("cube", (0, 0.8, 0), (1.2, 0.8, 0.9), colour, grain=0.03),
        solid("wedge", (0, 2.1, 0), (1.1, 0.5, 1.4), tuple(0.8 * c for c in colour), turn=rotation(yaw=90), grain=0.03),
    ]


def _tree(rng: np.random.Generator) -> list[Solid]:
    colour = COLOURS["tree"]
    return [
        rod((0, 0, 0), (0, 1.2, 0), 0.2, colour, grain=0.03),
        *(rod((0, low, 0), (0, low + 1.5, 0), radius, colour, shape="cone", grain=0.03)
          for low, radius in ((0.7, 1.0), (1.6, 0.75))),
    ]  # fmt: skip


MAKERS = {"ball": (_ball, 0.6), "car": (_car, 1.3), "house": (_house, 1.4), "tree": (_tree, 1.0)}
"""Maker, and half the object's width."""


def simple_scene(rng: np.random.Generator, kind: str, width: int, height: int) -> Scene:
    """One to three objects on a kind of ground, under a pale sky."""
    camera = Camera(width, height, rng.uniform(1.4, 1.9), rng.uniform(0.32, 0.48))
    stage = Stage(camera, rng)
    sky = Sky(stage.background("sky"), COLOURS["sky"], COLOURS["sky"], haze=HAZE)
    ground = Surface(stage.background(GROUNDS[kind]), COLOURS[GROUNDS[kind]], grain=0.06)
    patches = []
    if kind == "coast":
        near = rng.uniform(6.5, 9)
        patches.append(Patch(Surface(stage.background("sea"), COLOURS["sea"], grain=0.06), near,
                             waves=[(0.8, 0.06, rng.random())]))  # fmt: skip
    for _ in range(int(rng.integers(1, 4))):
        name = OBJECTS[rng.integers(len(OBJECTS))]
        make, half_width = MAKERS[name]
        x, z = stage.free_place(4.2, 10.5, half_width)
        stage.place(name, make(rng), (x, 0, z), yaw=rng.uniform(-30, 30), scale=rng.uniform(0.85, 1.15), shadow=0.25)
    scene = stage.scene(sky=sky, ground=ground, patches=patches, sun=(-0.5, 0.7, -0.5), ambient=AMBIENT)
    return caption(scene, kind)


def palette() -> tuple[np.ndarray, np.ndarray]:
    """Colours (n, 3) in [-1, 1] as they appear at several depths, and the number of the label of each (n,)."""
    air = np.array(COLOURS["sky"])
    colours, labels = [air], [0]
    for number, colour in enumerate(COLOURS.values()):
        for z in (4, 7, 11, 17, 26, 45) if number else ():
            for light in (0.80, 0.95):
                colours.append(air + (light * np.array(colour) - air) * np.exp(-z / HAZE))
                labels.append(number)
    return 2 * np.array(colours, np.float32) - 1, np.array(labels)
