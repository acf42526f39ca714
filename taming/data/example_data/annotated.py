"""What the annotated scenes of COCO and Open Images have in common: the scenes, and the objects found in them."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace

import numpy as np

from taming.data.annotated_objects_dataset import AnnotatedObjectsDataset
from taming.data.example_data.layout import Recipe, generator
from taming.data.rendering import animals
from taming.data.rendering.caster import alone
from taming.data.rendering.landscapes import LANDSCAPES, MAKERS, flock
from taming.data.rendering.outdoors import house
from taming.data.rendering.rooms import ROOMS
from taming.data.rendering.scene import Scene
from taming.data.rendering.stage import Stage
from taming.data.rendering.views import View, box_of, view

Box = tuple[int, int, int, int]
SPLITS = {"train": 24, "validation": 12}
"""Images in each."""
SIZES = ((320, 240), (240, 320))
FEWEST_PIXELS = 24
"""Objects that show less are not annotated."""
FEWEST_BOXES, MOST_BOXES = 3, 12
VISIBLE = 0.9
"""An object is occluded if less than this share of it is seen."""


@dataclass(frozen=True)
class Found:
    """An object in view: its instance, visible mask (h, w), that mask's box in pixels, and flags."""

    number: int
    kind: str
    mask: np.ndarray
    box: Box
    occluded: bool
    truncated: bool
    group: bool
    depicted: bool
    inside: bool


def find_objects(scene: Scene, maps: View) -> list[Found]:
    """The objects that can be seen, in the order of their numbers."""
    whole = alone(scene)
    found = []
    for number in sorted(scene.objects):
        mask = maps.owners == number
        if mask.sum() < FEWEST_PIXELS:
            continue
        instance = scene.instances[number]
        found.append(
            Found(
                number,
                instance.kind,
                mask,
                box_of(mask),
                occluded=bool(mask.sum() < VISIBLE * whole[number].area),
                truncated=whole[number].at_border,
                group=instance.group,
                depicted=instance.depicted,
                inside=instance.inside,
            )
        )
    return found


def sheep_flock(stage: Stage) -> None:
    """Six sheep that count as one object."""
    flock(stage, "sheep", 6, near=8, far=10, scale=0.8)


def bird_flock(stage: Stage) -> None:
    """Seven birds that count as one object."""
    flock(stage, "bird", 7, near=4.6, far=5.2, scale=0.9)


def cat_behind_window(stage: Stage) -> None:
    """A house, and a cat that sits in its right window."""
    x, z = stage.free_place(11, 12, 2.4)
    stage.place("house", house(stage.rng), (x, 0, z))
    flat = np.diag([1.5, 1.5, 0.03])
    cat = [part.transformed(flat) for part in animals.cat(stage.rng, coat="ginger")]
    stage.place("cat", cat, (x + 1.70, 0.98, z - 2.32), shadow=0, inside=True)


def footballers(stage: Stage) -> None:
    """A man, a woman and a football."""
    for kind, half_width in (("man", 0.5), ("woman", 0.5), ("football", 0.3)):
        x, z = stage.free_place(4.8, 6.2, half_width)
        stage.place(kind, MAKERS[kind](stage.rng), (x, 0, z), yaw=float(stage.rng.uniform(0, 40)))


SPECIAL: dict[int, dict] = {
    0: {"kind": "swiss_mountains", "add": sheep_flock},
    1: {"kind": "park", "add": footballers, "things": False},
    2: {"kind": "meadow", "add": cat_behind_window, "things": False},
    3: {"kind": "living_room", "depiction": True},
    4: {"kind": "lakes", "add": bird_flock},
}
"""Scenes that have what each set must have somewhere, by index."""


def recipe(index: int, special: Container[int] = SPECIAL) -> Recipe:
    """The scene of an image: the kinds in turn, upright and lying, special ones at the indices in `special`."""
    kinds = [*LANDSCAPES, *ROOMS]
    made = Recipe(kinds[(index * 5) % len(kinds)], *SIZES[index // 2 % 2], most_stuff=2)
    return replace(made, **SPECIAL.get(index, {})) if index in special else made


def scenes(
    dataset: str, seed: int, count: Callable[[Scene, View], int], special: Container[int] = SPECIAL
) -> Iterator[tuple[str, int, Scene, View]]:
    """Split, index, scene and maps of each image of a set; each has as many boxes as there may be, by `count`."""
    index = 0
    for split, length in SPLITS.items():
        for _ in range(length):
            scene = recipe(index, special).make_until(
                generator(dataset, index, seed), lambda scene: _good(scene, count)
            )
            yield split, index, scene, view(scene)
            index += 1


def _good(scene: Scene, count: Callable[[Scene, View], int]) -> bool:
    """Objects that are there on purpose must be seen well."""
    maps = view(scene)
    wanted = {n for n in scene.objects if (i := scene.instances[n]).group or i.depicted or i.inside}
    clear = all((maps.owners == number).sum() >= 3 * FEWEST_PIXELS for number in wanted)
    return clear and FEWEST_BOXES <= count(scene, maps) <= MOST_BOXES


def check_dataset(data: AnnotatedObjectsDataset, length: int, *, n_classes: int) -> Iterator[str]:
    """What is wrong with a data set of scenes as its config reads it, one line each."""
    where = f"{data.data_path}, {data.split}"
    if len(data) != length:
        yield f"{where}: {len(data)} images pass the filters of the config, not {length}"
    if data.no_classes != n_classes:
        yield f"{where}: {data.no_classes} classes, not {n_classes}"
    for index in range(len(data)):
        n_boxes = len(data[index]["annotations"])
        if not 3 <= n_boxes <= 12:
            yield f"{where}: {n_boxes} boxes in image {index}, not 3 to 12"
