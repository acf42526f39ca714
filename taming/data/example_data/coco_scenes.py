"""Annotated scenes laid out like COCO: images, things and stuff."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taming.data.annotated_objects_coco import AnnotatedObjectsCoco
from taming.data.example_data.annotated import FEWEST_PIXELS, SPLITS, check_dataset, find_objects, scenes
from taming.data.example_data.layout import ExampleSet, check_files, read_table, save_jpeg, save_json
from taming.data.rendering.classes import CLASSES, class_of
from taming.data.rendering.scene import Scene
from taming.data.rendering.views import View, box_of, render

NAME = "coco_annotations_100"
FIRST_ID = 9000101
LAST_THING = 91
OTHER = 183
"""Category of what is no other stuff; the data set leaves it out."""
SPECIAL = (0, 1, 3)
"""The special scenes in this set: one group only, of sheep."""
FOLDERS = {"train": "train2017", "validation": "val2017"}


@dataclass(frozen=True)
class Box:
    """An annotation: category, box in pixels, pixels of the mask, and whether it is a group."""

    category: int
    box: tuple[int, int, int, int]
    area: int
    group: bool = False

    def as_dict(self, id_: int, image_id: int) -> dict:
        """As COCO writes it."""
        return {
            "id": id_,
            "image_id": image_id,
            "category_id": self.category,
            "bbox": [float(value) for value in self.box],
            "area": float(self.area),
            "iscrowd": int(self.group),
            "segmentation": [],
        }


def boxes(scene: Scene, maps: View) -> list[Box]:
    """One per thing, then one per class of stuff, all of a class together."""
    things = [
        Box(CLASSES[class_of(found.kind)].coco, found.box, int(found.mask.sum()), found.group)
        for found in find_objects(scene, maps)
        if _is_thing(found.kind)
    ]
    return [*things, *_stuff(scene, maps)]


def _is_thing(kind: str) -> bool:
    return (CLASSES[class_of(kind)].coco or OTHER) <= LAST_THING


def _stuff(scene: Scene, maps: View) -> list[Box]:
    categories = np.array([CLASSES[class_of(each.kind)].coco or OTHER for each in scene.instances])[maps.owners]
    masks = {int(category): categories == category for category in np.unique(categories) if category > LAST_THING}
    return [
        Box(category, box_of(mask), int(mask.sum())) for category, mask in masks.items() if mask.sum() >= FEWEST_PIXELS
    ]


def _annotated(seed: int) -> Iterator[tuple[str, int, Scene, View, list[Box]]]:
    def count(scene: Scene, maps: View) -> int:
        return sum(box.category != OTHER for box in boxes(scene, maps))

    for split, index, scene, maps in scenes("coco_scenes", seed, count, SPECIAL):
        yield split, FIRST_ID + index, scene, maps, boxes(scene, maps)


def write(folder: Path, seed: int) -> None:
    contents = {(split, part): _content(part) for split in SPLITS for part in ("instances", "stuff")}
    n_annotations = 0
    for split, image_id, scene, maps, found in _annotated(seed):
        name = f"{image_id:012}.jpg"
        save_jpeg(folder / NAME / FOLDERS[split] / name, render(scene)[0])
        height, width = maps.owners.shape
        description = {
            "id": image_id,
            "file_name": name,
            "width": width,
            "height": height,
            "license": 1,
            "coco_url": "",
        }
        for part in ("instances", "stuff"):
            contents[split, part]["images"].append(description)
        for box in found:
            part = "instances" if box.category <= LAST_THING else "stuff"
            n_annotations += 1
            contents[split, part]["annotations"].append(box.as_dict(n_annotations, image_id))
    for (split, part), content in contents.items():
        save_json(folder / NAME / "annotations" / f"{part}_{FOLDERS[split]}.json", content)


def _content(part: str) -> dict:
    """An annotation file before its images: every category of its part, so that class numbers are COCO's."""
    categories = [
        {"supercategory": group, "id": int(id_), "name": name}
        for id_, group, name in read_table("coco_categories.csv")
        if (int(id_) <= LAST_THING) == (part == "instances")
    ]
    return {
        "info": {"description": "Rendered scenes in the format of COCO 2017", "version": "1.0"},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": [],
        "categories": categories,
        "annotations": [],
    }


def dataset(folder: Path, split: str, **options) -> AnnotatedObjectsCoco:
    """The images as the published configs read them."""
    published = {"keys": ["image", "objects_bbox", "file_name", "annotations"], "no_tokens": 8192, "random_flip": False,
                 "target_image_size": 256, "min_objects_per_image": 2, "max_objects_per_image": 30,
                 "min_object_area": 0.00001, "crop_method": "center", "use_group_parameter": True,
                 "encode_crop": True}  # fmt: skip
    return AnnotatedObjectsCoco(data_path=str(folder / NAME), split=split, **(published | options))


def check(folder: Path, seed: int) -> Iterable[str]:
    files = {f"annotations/{part}_{name}.json" for part in ("instances", "stuff") for name in FOLDERS.values()}
    expected = {}
    for split, image_id, _, maps, found in _annotated(seed):
        files.add(f"{FOLDERS[split]}/{image_id:012}.jpg")
        expected[image_id] = (maps.owners.shape, found)
    missing = list(check_files(folder, NAME, files))
    yield from missing
    if not missing:
        yield from _check_boxes(folder, expected)
        for split, length in SPLITS.items():
            yield from check_dataset(dataset(folder, split), length, n_classes=171)


def _check_boxes(folder: Path, expected: dict[int, tuple[tuple[int, int], list[Box]]]) -> Iterable[str]:
    stored: dict[int, list[dict]] = {image_id: [] for image_id in expected}
    for path in sorted((folder / NAME / "annotations").iterdir()):
        for annotation in json.loads(path.read_text())["annotations"]:
            stored.setdefault(annotation["image_id"], []).append(annotation)
    for image_id, annotations in stored.items():
        (height, width), found = expected.get(image_id, ((0, 0), []))
        if not _same(annotations, found):
            yield f"{folder / NAME}: the boxes of image {image_id} are not those of its scene"
        for x, y, w, h in (each["bbox"] for each in annotations):
            if not (w > 0 < h and x >= 0 <= y and x + w <= width and y + h <= height):
                yield f"{folder / NAME}: image {image_id} has a box outside of it"
    if not any(each["iscrowd"] for annotations in stored.values() for each in annotations):
        yield f"{folder / NAME}: no box is a group"
    if not any(each["category_id"] == OTHER for annotations in stored.values() for each in annotations):
        yield f"{folder / NAME}: no box is of the category {OTHER}, other"


def _same(annotations: list[dict], found: list[Box]) -> bool:
    """Whether they are the boxes found, to a pixel: at an edge another machine may round otherwise."""
    pairs = zip(annotations, found, strict=False)
    return len(annotations) == len(found) and all(
        stored["category_id"] == box.category
        and bool(stored["iscrowd"]) == box.group
        and max(abs(a - b) for a, b in zip(stored["bbox"], box.box, strict=True)) <= 1
        for stored, box in pairs
    )


COCO_SCENES = ExampleSet((NAME,), write, check)
