"""Examples of images with depth maps: animals of the restricted ImageNet (D-RIN)."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from taming.data._io import read_list
from taming.data.depth_maps import depth_to_rgba, rgba_to_depth
from taming.data.example_data.layout import (
    ExampleSet,
    Recipe,
    check_files,
    generator,
    pixels_of,
    save_jpeg,
    save_list,
    save_png,
)
from taming.data.rendering import animals
from taming.data.rendering.camera import FOCAL_LENGTH
from taming.data.rendering.scene import Scene
from taming.data.rendering.shapes import CORNERS, Solid
from taming.data.rendering.stage import Stage
from taming.data.rendering.views import FARTHEST, NEAREST, View, box_of, inverse_depth, render, view

DISTANCE = 4.4
"""Metres from the camera to the animal."""
FEET = 0.30
"""How far below the horizon the animal stands, a share of the image's height."""
SHARE = (0.30, 0.70)
"""Of the image's shorter side, that the animal's longer side fills."""

ANIMALS = {
    "n02099601": ("dog", partial(animals.dog, coat="golden"), "meadow", (320, 256)),
    "n02123045": ("cat", partial(animals.cat, coat="tabby"), "park", (256, 320)),
    "n02111889": ("dog", partial(animals.dog, coat="samoyed"), "snow", (352, 288)),
    "n02086646": ("dog", partial(animals.dog, coat="spaniel"), "swiss_mountains", (320, 256)),
    "n01820546": ("bird", partial(animals.bird, plumage="lorikeet"), "desert", (256, 320)),
    "n01847000": ("bird", partial(animals.bird, plumage="drake"), "lakes", (352, 288)),
}
"""Synset -> kind, maker, landscape and size (width, height)."""
ENTRIES = [f"{synset}/example_0.JPEG" for synset in ANIMALS]


def _pose(stage: Stage, kind: str, parts: list[Solid]) -> None:
    """Put the animal before the camera, scaled so that it fills 0.6 of the shorter side, feet in the lower half."""
    camera = stage.camera
    corners = np.concatenate([CORNERS @ part.matrix.T + part.offset for part in parts])
    length = (corners.max(axis=0) - corners.min(axis=0))[:2].max()
    scale = 0.6 * min(camera.width, camera.height) * DISTANCE / camera.focal / length
    stage.place(kind, parts, (0, 0, DISTANCE), yaw=stage.rng.uniform(8, 22), scale=scale)
    stage.take(0, DISTANCE, 0.4 * length * scale)


def scene(index: int, seed: int) -> tuple[Scene, View]:
    """The scene of an entry and its maps."""
    kind, maker, place, (width, height) = list(ANIMALS.values())[index]
    rng = generator("drin", index, seed)

    def add(stage: Stage) -> None:
        _pose(stage, kind, maker(stage.rng))

    elevation = FEET * height / (FOCAL_LENGTH * width) * DISTANCE
    recipe = Recipe(place, width, height, things=False, most_stuff=1, elevation=elevation, near=2 * DISTANCE, add=add)
    found = recipe.make_until(rng, lambda scene: _fits(scene, view(scene)))
    return found, view(found)


def _fits(scene: Scene, maps: View) -> bool:
    mask = animal_mask(scene, maps)
    if not mask.any():
        return False
    share = max(box_of(mask)[2:]) / min(mask.shape)
    return SHARE[0] <= share <= SHARE[1]


def animal_mask(scene: Scene, maps: View) -> np.ndarray:
    """Where the animal is seen (h, w)."""
    kinds = {kind for kind, *_ in ANIMALS.values()}
    numbers = [n for n in scene.objects if scene.instances[n].kind in kinds]
    return np.isin(maps.owners, numbers)


def write(folder: Path, seed: int) -> None:
    for index, entry in enumerate(ENTRIES):
        found, maps = scene(index, seed)
        save_jpeg(folder / "drin_images" / entry, render(found)[0])
        save_png(folder / "drin_depth" / _depth_name(entry), depth_to_rgba(inverse_depth(maps.depth)))
    save_list(folder / "drin_examples.txt", ENTRIES)


def _depth_name(entry: str) -> str:
    return entry.replace(".JPEG", ".png")


def check(folder: Path, seed: int) -> Iterable[str]:
    entries = read_list(folder / "drin_examples.txt", "drin")
    if entries != ENTRIES:
        yield f"{folder / 'drin_examples.txt'} does not list {', '.join(ENTRIES)}"
    yield from check_files(folder, "drin_images", entries)
    yield from check_files(folder, "drin_depth", map(_depth_name, entries))
    for index, entry in enumerate(ENTRIES):
        image, depth = folder / "drin_images" / entry, folder / "drin_depth" / _depth_name(entry)
        if image.is_file() and depth.is_file():
            yield from _check_pair(image, depth, index, seed)


def _check_pair(image: Path, depth: Path, index: int, seed: int) -> Iterable[str]:
    (mode, pixels), (depth_mode, bytes_) = pixels_of(image), pixels_of(depth)
    if mode != "RGB" or depth_mode != "RGBA":
        yield f"{image} and {depth} have the modes {mode} and {depth_mode}, not RGB and RGBA"
        return
    if pixels.shape[:2] != bytes_.shape[:2]:
        yield f"{image} and {depth} differ in size"
        return
    values = rgba_to_depth(bytes_)
    if not np.isfinite(values).all() or values.min() < FARTHEST or values.max() > NEAREST:
        yield f"{depth} has values that are not within {FARTHEST:.0f} to {NEAREST:.0f}"
        return
    if values.max() < 4 * values.min():
        yield f"{depth} has hardly any depth: {values.min():.0f} to {values.max():.0f}"
    mask = animal_mask(*scene(index, seed))
    if mask.shape != values.shape or values[mask].mean() <= values[~mask].mean():
        yield f"{depth}: the animal is not nearer than what is around it"


DRIN = ExampleSet(("drin_examples.txt", "drin_images", "drin_depth"), write, check)
