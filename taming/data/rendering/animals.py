"""Animals and people as unions of solids, standing at the origin and looking along +x; in metres.

Each function draws its colours and proportions from `rng`, unless it is told.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from taming.data.rendering.scene import Colour
from taming.data.rendering.shapes import Solid, rod, rotation, solid

BLACK = (0.06, 0.05, 0.05)
WHITE = (0.95, 0.94, 0.92)
PINK = (0.85, 0.55, 0.52)

FUR = {
    "golden": ((0.80, 0.55, 0.24), (0.92, 0.74, 0.48)),
    "samoyed": ((0.94, 0.92, 0.87), (0.98, 0.97, 0.94)),
    "spaniel": ((0.55, 0.26, 0.12), (0.93, 0.90, 0.85)),
    "black": ((0.13, 0.12, 0.12), (0.42, 0.30, 0.20)),
    "tabby": ((0.55, 0.45, 0.34), (0.86, 0.80, 0.70)),
    "ginger": ((0.86, 0.50, 0.20), (0.97, 0.86, 0.72)),
    "grey": ((0.50, 0.51, 0.54), (0.78, 0.79, 0.80)),
}
"""Coat -> main colour, and that of muzzle, chest and paws."""


@dataclass(frozen=True)
class Build:
    """Proportions of a four-legged animal: leg, body and neck lengths, radii of body and head, length of the snout."""

    leg: float
    body: float
    girth: float
    neck: float
    head: float
    snout: float


DOG = Build(leg=0.34, body=0.36, girth=0.15, neck=0.20, head=0.115, snout=0.13)
CAT = Build(leg=0.17, body=0.22, girth=0.085, neck=0.09, head=0.082, snout=0.03)


def _legs(build: Build, coat: Colour, paw: Colour) -> list[Solid]:
    parts = []
    for x, bend in ((0.78 * build.body, 0.0), (-0.80 * build.body, -0.06)):
        for z, stride in ((-0.55 * build.girth, 0.10), (0.55 * build.girth, -0.10)):
            hip = (x, build.leg + 0.3 * build.girth, z)
            foot = (x + (stride + bend) * build.leg, 0.06 * build.leg, z)
            parts += [
                solid("sphere", hip, (0.62 * build.girth, 0.9 * build.girth, 0.45 * build.girth), coat),
                rod(hip, foot, 0.27 * build.girth, coat),
                solid(
                    "sphere",
                    np.add(foot, (0.05 * build.leg, 0.01, 0)),
                    (0.42 * build.girth, 0.26 * build.girth, 0.32 * build.girth),
                    paw,
                ),
            ]
    return parts


def _trunk(build: Build, coat: Colour, chest: Colour) -> list[Solid]:
    height = build.leg + 0.55 * build.girth
    return [
        solid("sphere", (0, height, 0), (1.25 * build.body, build.girth, 0.85 * build.girth), coat),
        solid(
            "sphere", (0.7 * build.body, height, 0), (0.55 * build.body, 1.14 * build.girth, 0.9 * build.girth), coat
        ),
        solid(
            "sphere",
            (0.88 * build.body, height - 0.15 * build.girth, 0),
            (0.42 * build.body, 0.95 * build.girth, 0.72 * build.girth),
            chest,
        ),
        solid(
            "sphere", (-0.75 * build.body, height, 0), (0.5 * build.body, 1.02 * build.girth, 0.85 * build.girth), coat
        ),
    ]


def _face(at: np.ndarray, build: Build, coat: Colour, muzzle: Colour, *, eye: Colour = BLACK) -> list[Solid]:
    """Head, snout, nose and eyes; turned a little towards the camera, which is at -z."""
    r = build.head
    turn = rotation(yaw=24)
    parts = [
        solid("sphere", (0, 0, 0), (r, 0.94 * r, 0.92 * r), coat),
        solid(
            "sphere",
            (0.72 * r + 0.4 * build.snout, -0.28 * r, 0),
            (0.35 * r + 0.62 * build.snout, 0.42 * r, 0.46 * r),
            muzzle,
        ),
        solid("sphere", (1.02 * r + build.snout, -0.14 * r, 0), (0.17 * r, 0.15 * r, 0.19 * r), BLACK),
    ]
    for side in (-1, 1):
        parts.append(solid("sphere", (0.76 * r, 0.22 * r, side * 0.46 * r), (0.15 * r, 0.17 * r, 0.14 * r), eye))
        parts.append(solid("sphere", (0.89 * r, 0.28 * r, side * 0.47 * r), (0.045 * r,) * 3, WHITE, flat=1.0))
    return [part.transformed(turn, at) for part in parts]


def dog(rng: np.random.Generator, *, coat: str | None = None) -> list[Solid]:
    """Long legs and snout, hanging ears, a raised tail; a Samoyed has upright ears and a curled tail."""
    coat = coat or rng.choice(["golden", "samoyed", "spaniel", "black"])
    main, light = FUR[coat]
    paw = light if coat != "golden" else main
    build, height = DOG, DOG.leg + 0.55 * DOG.girth
    neck = np.array([0.95 * build.body, height + 0.35 * build.girth, 0])
    head = np.add(neck, (0.55 * build.neck, 0.95 * build.neck, -0.02))
    parts = [*_trunk(build, main, light), *_legs(build, main, paw)]
    parts.append(rod(np.subtract(neck, (0.08, 0.1, 0)), head, 0.62 * build.girth, main, shape="sphere"))
    parts.append(rod(np.subtract(neck, (0.1, 0.12, 0)), head, 0.46 * build.girth, main))
    parts += _face(head, build, main, light if coat != "golden" else (0.88, 0.68, 0.40))
    parts += _dog_ears(head, build.head, coat, main)
    parts += _tail(np.array([-1.15 * build.body, height + 0.5 * build.girth, 0]), coat, main, light)
    if coat == "samoyed":
        ruff = [solid("sphere", np.subtract(head, (0.06, 0.13, 0)), (0.15, 0.16, 0.15), main)]
        return [*parts, *ruff]
    if coat == "spaniel":
        parts.append(solid("sphere", (-0.1, height + 0.01, -0.02), (0.16, 0.152, 0.135), light))
    return parts


def _dog_ears(head: np.ndarray, r: float, coat: str, main: Colour) -> list[Solid]:
    ears = []
    for side in (-1, 1):
        if coat == "samoyed":
            at = np.add(head, (-0.1 * r, 0.95 * r, side * 0.55 * r))
            ears.append(solid("cone", at, (0.3 * r, 0.48 * r, 0.34 * r), main, turn=rotation(pitch=side * 14)))
        else:
            length = 0.95 if coat == "spaniel" else 0.68
            at = np.add(head, (-0.12 * r, 0.42 * r - 0.62 * length * r, side * 0.93 * r))
            dark = tuple(0.78 * c for c in main)
            ears.append(solid("sphere", at, (0.42 * r, length * r, 0.17 * r), dark, turn=rotation(pitch=-side * 8)))
    return ears


def _tail(root: np.ndarray, coat: str, main: Colour, light: Colour) -> list[Solid]:
    curl = {
        "samoyed": [(-0.05, 0.12), (0.02, 0.22), (0.13, 0.21), (0.18, 0.13)],
        "spaniel": [(-0.10, 0.06), (-0.15, 0.12)],
    }
    points = curl.get(coat, [(-0.12, 0.07), (-0.22, 0.19), (-0.26, 0.31)])
    radius = 0.065 if coat == "samoyed" else 0.036
    return _tube([root, *(np.add(root, (x, y, -0.02)) for x, y in points)], radius, main, tip=light)


def _tube(points: list[np.ndarray], radius: float, colour: Colour, *, tip: Colour) -> list[Solid]:
    """Rods along points with round joints."""
    parts = []
    for start, end in pairwise(points):
        parts.append(rod(start, end, 0.95 * radius, colour))
        parts.append(solid("sphere", end, (radius,) * 3, tip if end is points[-1] else colour))
    return parts


def cat(rng: np.random.Generator, *, coat: str | None = None) -> list[Solid]:
    """Short legs, a round head with pointed ears, a long tail held up; a tabby has stripes."""
    coat = coat or rng.choice(["tabby", "ginger", "grey", "black"])
    main, light = FUR[coat]
    build, height = CAT, CAT.leg + 0.55 * CAT.girth
    parts = [*_trunk(build, main, light), *_legs(build, main, light)]
    head = np.array([1.22 * build.body, height + 0.13, -0.015])
    parts.append(rod((0.85 * build.body, height, 0), head, 0.6 * build.girth, main))
    parts += _face(head, build, main, light, eye=(0.35, 0.62, 0.20))
    r = build.head
    for side in (-1, 1):
        at = head + rotation(yaw=24) @ [0.0, 0.98 * r, side * 0.56 * r]
        turn = rotation(pitch=side * 16)
        parts.append(solid("cone", at, (0.24 * r, 0.52 * r, 0.42 * r), main, turn=turn))
        parts.append(
            solid("cone", np.add(at, (0.1 * r, -0.04 * r, -0.04 * r)), (0.2 * r, 0.38 * r, 0.26 * r), PINK, turn=turn)
        )
    root = np.array([-1.15 * build.body, height + 0.03, 0])
    tail = [
        root,
        *(np.add(root, (x, y, -0.01)) for x, y in ((-0.10, 0.05), (-0.15, 0.16), (-0.13, 0.27), (-0.17, 0.36))),
    ]
    parts += _tube(tail, 0.024, main, tip=light)
    if coat in ("tabby", "ginger"):
        dark = tuple(0.62 * c for c in main)
        for x in np.linspace(-0.9, 0.55, 7) * build.body:
            girth = build.girth * np.sqrt(max(0.1, 1 - (x / (1.25 * build.body)) ** 2))
            parts.append(solid("sphere", (x, height + 0.012, 0), (0.013, 1.05 * girth, 0.93 * girth), dark))
    return parts


def sheep(rng: np.random.Generator) -> list[Solid]:
    """Wool in tufts, a dark face and thin dark legs."""
    wool = tuple(np.array([0.93, 0.90, 0.83]) * rng.uniform(0.92, 1.0))
    dark = (0.20, 0.17, 0.16)
    parts = [solid("sphere", (0, 0.62, 0), (0.50, 0.30, 0.28), wool)]
    for angle in np.arange(9) / 9 * 2 * np.pi:
        at = (0.36 * np.cos(angle), 0.62 + 0.19 * np.sin(angle), -0.12)
        parts.append(solid("sphere", at, (0.19, 0.18, 0.19), wool, grain=0.16))
    for x in (-0.2, 0.0, 0.2):
        parts.append(solid("sphere", (x, 0.66, -0.2), (0.17, 0.17, 0.13), wool, grain=0.16))
    for x in (-0.28, 0.26):
        for z in (-0.14, 0.14):
            parts.append(rod((x, 0.5, z), (x + 0.02, 0.0, z), 0.045, dark))
    face = [
        solid("sphere", (0, 0, 0), (0.17, 0.115, 0.105), dark, turn=rotation(roll=-32)),
        solid("sphere", (-0.08, 0.10, 0), (0.12, 0.10, 0.12), wool, grain=0.16),
    ]
    for side in (-1, 1):
        face.append(solid("sphere", (-0.06, 0.045, side * 0.15), (0.045, 0.035, 0.10), dark))
        face.append(solid("sphere", (0.06, 0.035, side * 0.085), (0.022, 0.026, 0.02), WHITE))
    return [*parts, *(part.transformed(rotation(yaw=25), (0.55, 0.78, -0.04)) for part in face)]


BIRDS = {
    "robin": {"back": (0.42, 0.33, 0.24), "breast": (0.86, 0.40, 0.14), "head": (0.45, 0.35, 0.26)},
    "bluebird": {"back": (0.20, 0.40, 0.75), "breast": (0.88, 0.62, 0.40), "head": (0.20, 0.42, 0.80)},
    "lorikeet": {"back": (0.16, 0.56, 0.18), "breast": (0.92, 0.34, 0.10), "head": (0.18, 0.28, 0.75)},
    "drake": {"back": (0.66, 0.64, 0.61), "breast": (0.40, 0.22, 0.15), "head": (0.07, 0.38, 0.22)},
}
BEAKS = {"lorikeet": (0.85, 0.20, 0.10), "drake": (0.88, 0.74, 0.18)}


def bird(rng: np.random.Generator, *, plumage: str | None = None) -> list[Solid]:
    """An upright songbird or parrot on thin legs, or a drake with a level body and a flat beak."""
    plumage = plumage or rng.choice(["robin", "bluebird"])
    if plumage == "drake":
        return _drake()
    back, breast, head = BIRDS[plumage].values()
    wing = tuple(0.78 * c for c in back)
    parts = [
        solid("sphere", (0, 0.20, 0), (0.15, 0.105, 0.10), back, turn=rotation(roll=38)),
        solid("sphere", (0.035, 0.185, 0), (0.125, 0.095, 0.093), breast, turn=rotation(roll=42)),
        solid("sphere", (-0.03, 0.205, -0.075), (0.135, 0.065, 0.04), wing, turn=rotation(roll=36)),
        solid("sphere", (-0.03, 0.205, 0.075), (0.135, 0.065, 0.04), wing, turn=rotation(roll=36)),
        solid("sphere", (-0.19, 0.075, 0), (0.13, 0.018, 0.042), wing, turn=rotation(roll=42)),
        solid("sphere", (0.105, 0.325, 0), (0.076, 0.073, 0.07), head),
    ]
    hooked = plumage == "lorikeet"
    beak = BEAKS.get(plumage, (0.25, 0.20, 0.15))
    parts.append(
        rod((0.16, 0.325, 0), (0.235, 0.30 if hooked else 0.32, 0), 0.036 if hooked else 0.022, beak, shape="cone")
    )
    if hooked:
        parts.append(
            solid("sphere", (0.055, 0.262, 0), (0.06, 0.03, 0.075), (0.80, 0.80, 0.15), turn=rotation(roll=38))
        )
        parts.append(solid("sphere", (0.175, 0.315, 0), (0.034, 0.036, 0.034), beak))
    for side in (-1, 1):
        parts.append(solid("sphere", (0.135, 0.345, side * 0.056), (0.017, 0.018, 0.013), BLACK))
        parts.append(solid("sphere", (0.147, 0.350, side * 0.066), (0.005,) * 3, WHITE, flat=1.0))
        parts.append(rod((0.02, 0.11, side * 0.035), (0.03, 0.0, side * 0.035), 0.009, (0.45, 0.32, 0.20)))
        parts.append(solid("sphere", (0.045, 0.006, side * 0.035), (0.04, 0.008, 0.02), (0.45, 0.32, 0.20)))
    return parts


def _drake() -> list[Solid]:
    back, breast, head = BIRDS["drake"].values()
    white, beak = (0.96, 0.95, 0.93), BEAKS["drake"]
    parts = [
        solid("sphere", (0, 0.12, 0), (0.27, 0.115, 0.14), back, turn=rotation(roll=4)),
        solid("sphere", (0.17, 0.125, 0), (0.13, 0.118, 0.125), breast),
        solid("sphere", (-0.04, 0.165, -0.10), (0.19, 0.062, 0.045), (0.50, 0.46, 0.42), turn=rotation(roll=5)),
        solid("sphere", (-0.04, 0.165, 0.10), (0.19, 0.062, 0.045), (0.50, 0.46, 0.42), turn=rotation(roll=5)),
        solid("sphere", (-0.10, 0.150, -0.137), (0.05, 0.03, 0.012), (0.20, 0.28, 0.62)),
        solid("sphere", (-0.27, 0.165, 0), (0.10, 0.035, 0.075), (0.16, 0.15, 0.15), turn=rotation(roll=-22)),
        rod((0.21, 0.17, 0), (0.225, 0.295, 0), 0.05, head),
        rod((0.213, 0.212, 0), (0.218, 0.234, 0), 0.056, white),
        solid("sphere", (0.245, 0.325, 0), (0.082, 0.070, 0.064), head),
        solid("sphere", (0.345, 0.305, 0), (0.065, 0.018, 0.036), beak, turn=rotation(roll=-8)),
    ]
    for side in (-1, 1):
        parts.append(solid("sphere", (0.272, 0.345, side * 0.053), (0.014, 0.015, 0.012), BLACK))
        parts.append(solid("sphere", (0.279, 0.350, side * 0.062), (0.0045,) * 3, WHITE, flat=1.0))
    return parts


SKIN = [(0.93, 0.76, 0.63), (0.80, 0.58, 0.42), (0.55, 0.37, 0.25), (0.38, 0.25, 0.17)]
HAIR = [(0.12, 0.08, 0.06), (0.35, 0.20, 0.10), (0.72, 0.53, 0.26), (0.55, 0.22, 0.10)]
CLOTHES = [
    (0.80, 0.16, 0.16),
    (0.15, 0.35, 0.70),
    (0.95, 0.75, 0.20),
    (0.20, 0.55, 0.35),
    (0.55, 0.25, 0.60),
    (0.90, 0.90, 0.90),
    (0.90, 0.50, 0.15),
    (0.20, 0.65, 0.70),
]
TROUSERS = [(0.16, 0.20, 0.34), (0.25, 0.22, 0.20), (0.45, 0.38, 0.28), (0.12, 0.12, 0.14)]


def person(rng: np.random.Generator, *, woman: bool | None = None) -> list[Solid]:
    """Looks along +x, as the animals do; a woman wears a skirt and long hair."""
    woman = rng.random() < 0.5 if woman is None else woman
    skin, hair = SKIN[rng.integers(len(SKIN))], HAIR[rng.integers(len(HAIR))]
    shirt, trousers = CLOTHES[rng.integers(len(CLOTHES))], TROUSERS[rng.integers(len(TROUSERS))]
    legs = skin if woman else trousers
    swing = rng.uniform(0.05, 0.16)
    parts = [
        solid("sphere", (0, 1.20, 0), (0.135, 0.30, 0.20), shirt),
        solid("sphere", (0, 1.36, 0), (0.115, 0.13, 0.225), shirt),
        solid("sphere", (0, 0.94, 0), (0.13, 0.14, 0.175), trousers if not woman else shirt),
        rod((0, 1.44, 0), (0.01, 1.56, 0), 0.055, skin),
        solid("sphere", (0.02, 1.64, 0), (0.105, 0.13, 0.098), skin),
        solid("sphere", (-0.012, 1.685, 0), (0.115, 0.105, 0.112), hair),
        solid("sphere", (0.125, 1.63, 0), (0.018, 0.022, 0.018), skin),
    ]
    if woman:
        parts.append(rod((0, 0.62, 0), (0, 1.45, 0), 0.32, shirt, shape="cone"))
        parts.append(solid("sphere", (-0.075, 1.53, 0), (0.07, 0.20, 0.11), hair))
    for side in (-1, 1):
        foot = side * swing
        parts.append(rod((0, 0.92, side * 0.085), (foot, 0.06, side * 0.095), 0.066, legs))
        parts.append(solid("sphere", (foot + 0.05, 0.045, side * 0.095), (0.12, 0.045, 0.05), BLACK))
        hand = np.array([-1.1 * foot, 0.86, side * 0.27])
        parts.append(rod((0, 1.40, side * 0.20), hand, 0.047, shirt))
        parts.append(solid("sphere", hand, (0.05, 0.06, 0.045), skin))
        parts.append(solid("sphere", (0.108, 1.655, side * 0.04), (0.013, 0.014, 0.014), BLACK))
    return parts
