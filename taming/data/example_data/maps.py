"""Examples of images with segmentations: ADE20K, COCO and S-FLCKR."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taming.data._io import read_list
from taming.data.ade20k import Examples as AdeExamples
from taming.data.coco import Examples as CocoExamples
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
from taming.data.rendering.classes import CLASSES, UNLABELLED, class_of
from taming.data.rendering.scene import Scene
from taming.data.rendering.views import render, view
from taming.data.segmentation import segmentation_name
from taming.data.sflckr import Examples as SflckrExamples

FEWEST_CLASSES = 3


@dataclass(frozen=True)
class MapSet:
    """Scenes by the names of their images, and the value that a class has in the label maps.

    examples: the data set that reads them; highest: the highest label in its one-hot maps.
    """

    name: str
    recipes: dict[str, Recipe]
    codes: dict[str, int]
    examples: type

    def label_map(self, scene: Scene, owners: np.ndarray) -> np.ndarray:
        """Values uint8 (h, w) of instance numbers (h, w)."""
        return np.array([self.codes[class_of(each.kind)] for each in scene.instances], np.uint8)[owners]

    def scene(self, index: int, seed: int) -> Scene:
        """The scene of an entry, with enough classes to tell apart."""
        recipe = list(self.recipes.values())[index]

        def various(scene: Scene) -> bool:
            return len(np.unique(self.label_map(scene, view(scene).owners))) >= FEWEST_CLASSES

        return recipe.make_until(generator(self.name, index, seed), various)

    def write(self, folder: Path, seed: int) -> None:
        for index, entry in enumerate(self.recipes):
            scene = self.scene(index, seed)
            image, maps = render(scene)
            save_jpeg(folder / f"{self.name}_images" / entry, image)
            save_png(
                folder / f"{self.name}_segmentations" / segmentation_name(entry), self.label_map(scene, maps.owners)
            )
        save_list(folder / f"{self.name}_examples.txt", self.recipes)

    def check(self, folder: Path, seed: int) -> Iterable[str]:
        entries = read_list(folder / f"{self.name}_examples.txt", self.name)
        if entries != list(self.recipes):
            yield f"{folder / f'{self.name}_examples.txt'} does not list {', '.join(self.recipes)}"
        yield from check_files(folder, f"{self.name}_images", entries)
        yield from check_files(folder, f"{self.name}_segmentations", map(segmentation_name, entries))
        for entry in entries:
            yield from self._check_pair(folder, entry)
        yield from self._check_unlabelled(folder, entries)

    def _check_pair(self, folder: Path, entry: str) -> Iterable[str]:
        image = folder / f"{self.name}_images" / entry
        labels = folder / f"{self.name}_segmentations" / segmentation_name(entry)
        if not (image.is_file() and labels.is_file()):
            return
        (mode, pixels), (label_mode, values) = pixels_of(image), pixels_of(labels)
        if mode != "RGB" or label_mode != "L":
            yield f"{image} and {labels} have the modes {mode} and {label_mode}, not RGB and L"
        elif pixels.shape[:2] != values.shape:
            yield f"{image} and {labels} differ in size"
        else:
            unknown = set(np.unique(values).tolist()) - set(self.codes.values())
            if unknown:
                yield f"{labels} has values of no class: {sorted(unknown)}"
            if len(np.unique(values)) < FEWEST_CLASSES:
                yield f"{labels} has fewer than {FEWEST_CLASSES} classes"

    def _check_unlabelled(self, folder: Path, entries: Sequence[str]) -> Iterable[str]:
        maps = [folder / f"{self.name}_segmentations" / segmentation_name(entry) for entry in entries]
        count = sum(bool((pixels_of(path)[1] == UNLABELLED).any()) for path in maps if path.is_file())
        if self.name == "sflckr" and count:
            yield f"{count} maps of sflckr have unlabelled pixels, which it does not know"
        if self.name == "coco" and count < 2:
            yield f"{count} maps of coco have unlabelled pixels, not 2 or more"

    def as_set(self) -> ExampleSet:
        names = (f"{self.name}_examples.txt", f"{self.name}_images", f"{self.name}_segmentations")
        return ExampleSet(names, self.write, self.check)


COCO_CODES = {name: UNLABELLED if ids.coco is None else ids.coco - 1 for name, ids in CLASSES.items()}
ADE_CODES = {name: ids.ade or 0 for name, ids in CLASSES.items()}

ADE20K = MapSet(
    "ade20k",
    {
        "scene_000.jpg": Recipe("village", 384, 288),
        "scene_001.jpg": Recipe("swiss_mountains", 288, 384),
        "scene_002.jpg": Recipe("park", 320, 256),
        "scene_003.jpg": Recipe("living_room", 384, 288),
        "scene_004.jpg": Recipe("bedroom", 288, 384),
        "scene_005.jpg": Recipe("dining_room", 320, 256),
    },
    ADE_CODES,
    AdeExamples,
)
COCO = MapSet(
    "coco",
    {
        "000009000001.jpg": Recipe("town", 384, 288),
        "000009000002.jpg": Recipe("cliff_ocean", 288, 384),
        "000009000003.jpg": Recipe("meadow", 320, 256),
        "000009000004.jpg": Recipe("dining_room", 384, 288),
        "000009000005.jpg": Recipe("living_room", 288, 384),
        "000009000006.jpg": Recipe("bedroom", 320, 256),
    },
    COCO_CODES,
    CocoExamples,
)
SFLCKR = MapSet(
    "sflckr",
    {
        "norway/example_0.jpg": Recipe("norway", 640, 320, things=False),
        "swiss_mountains/example_0.jpg": Recipe("swiss_mountains", 512, 320, things=False),
        "lakes/example_0.jpg": Recipe("lakes", 640, 320, things=False),
        "meadow/example_0.jpg": Recipe("meadow", 512, 320, things=False),
        "desert/example_0.jpg": Recipe("desert", 384, 512, things=False),
        "cliff_ocean/example_0.jpg": Recipe("cliff_ocean", 384, 512, things=False),
    },
    COCO_CODES,
    SflckrExamples,
)
