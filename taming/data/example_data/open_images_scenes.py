"""Annotated scenes laid out like Open Images: images and objects with flags."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from taming.data.annotated_objects_open_images import AnnotatedObjectsOpenImages
from taming.data.example_data.annotated import SIZES, SPLITS, Found, check_dataset, find_objects, scenes
from taming.data.example_data.layout import ExampleSet, check_files, generator, read_table, save_csv, save_jpeg
from taming.data.rendering.classes import open_images_id
from taming.data.rendering.scene import Scene
from taming.data.rendering.views import View, render

NAME = "open_images_annotations_100"
ANNOTATIONS = {"train": "oidv6-train-annotations-bbox.csv", "validation": "validation-annotations-bbox.csv"}
LISTS = {"train": "train-images-boxable.csv", "validation": "validation-images.csv"}
CLASSES = "class-descriptions-boxable.csv"
FLAGS = ["IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"]
COLUMNS = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", *FLAGS]
CLICKS = [f"XClick{number}{axis}" for axis in "XY" for number in (1, 2, 3, 4)]
"""Only the training file has these; -1 where there is no click."""
CONTAINER = "/m/011q46kg"
"""A class that the published config does not use."""
Row = list[str]


def _rows(image_id: str, split: str, found: Sequence[Found], size: tuple[int, int], *, special: bool) -> list[Row]:
    """Rows of an image; `special` adds a box by a machine, whose flags are unknown, and one of the container class."""
    rows = [_row(image_id, each, size) for each in found]
    if special:
        plant = next(each for each in found if each.kind == "plant")
        row = _row(image_id, plant, size)
        rows.append([image_id, "activemil", *row[2:8], *("-1" for _ in FLAGS)])
        rows.append([*row[:2], CONTAINER, *row[3:]])
    return [row + ["-1.000000"] * (len(CLICKS) if split == "train" else 0) for row in rows]


def _row(image_id: str, found: Found, size: tuple[int, int]) -> Row:
    height, width = size
    left, top, w, h = found.box
    edges = (left / width, (left + w) / width, top / height, (top + h) / height)
    flags = (found.occluded, found.truncated, found.group, found.depicted, found.inside)
    return [image_id, "xclick", open_images_id(found.kind), "1", *(f"{edge:.6f}" for edge in edges),
            *(str(int(flag)) for flag in flags)]  # fmt: skip


def _image_id(index: int, seed: int) -> str:
    """Sixteen hexadecimal digits."""
    return f"{int(generator('open_images/names', index, seed).integers(2**62)):016x}"


def _annotated(seed: int) -> Iterator[tuple[str, str, Scene, list[Row]]]:
    """Split, image id, scene and rows of each image; the first living room is the special one."""

    def count(scene: Scene, maps: View) -> int:
        return len(find_objects(scene, maps))

    waiting = True
    for split, index, scene, maps in scenes("open_images", seed, count):
        found = find_objects(scene, maps)
        special = waiting and any(each.kind == "plant" for each in found)
        waiting = waiting and not special
        image_id = _image_id(index, seed)
        yield split, image_id, scene, _rows(image_id, split, found, maps.owners.shape, special=special)


def write(folder: Path, seed: int) -> None:
    rows: dict[str, list[Row]] = {"train": [COLUMNS + CLICKS], "validation": [COLUMNS]}
    images: dict[str, list[Row]] = {split: [["image_name", "image_url"]] for split in SPLITS}
    for split, image_id, scene, found in _annotated(seed):
        save_jpeg(folder / NAME / split / f"{image_id}.jpg", render(scene)[0])
        rows[split] += found
        images[split].append([f"{image_id}.jpg", ""])
    for split in SPLITS:
        save_csv(folder / NAME / ANNOTATIONS[split], rows[split])
        save_csv(folder / NAME / LISTS[split], images[split])
    save_csv(folder / NAME / CLASSES, read_table("open_images_classes.csv"))


def dataset(folder: Path, split: str, **options) -> AnnotatedObjectsOpenImages:
    """The images as the published configs read them."""
    helper = "taming.data.open_images_helper"
    published = {"keys": ["image", "objects_bbox", "file_name", "annotations"], "no_tokens": 8192, "random_flip": False,
                 "target_image_size": 256, "min_objects_per_image": 2, "max_objects_per_image": 30,
                 "min_object_area": 0.0001, "crop_method": "center", "use_group_parameter": True, "encode_crop": True,
                 "use_additional_parameters": True,
                 "category_allow_list_target": f"{helper}.top_300_classes_plus_coco_compatibility",
                 "category_mapping_target": f"{helper}.open_images_unify_categories_for_coco"}  # fmt: skip
    return AnnotatedObjectsOpenImages(data_path=str(folder / NAME), split=split, **(published | options))


def check(folder: Path, seed: int) -> Iterable[str]:
    files = {CLASSES, *ANNOTATIONS.values(), *LISTS.values()}
    expected: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for split, image_id, _, rows in _annotated(seed):
        files.add(f"{split}/{image_id}.jpg")
        expected[split] += rows
    missing = list(check_files(folder, NAME, files))
    yield from missing
    if missing:
        return
    for split, rows in expected.items():
        yield from _check_rows(folder / NAME / ANNOTATIONS[split], rows, CLICKS if split == "train" else [])
        yield from check_dataset(dataset(folder, split), SPLITS[split], n_classes=340)
    for number, flag in enumerate(FLAGS, start=8):
        if not any(row[number] == "1" for rows in expected.values() for row in rows):
            yield f"{folder / NAME}: no box has {flag}"


def _check_rows(path: Path, expected: list[Row], clicks: list[str]) -> Iterable[str]:
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    if header != COLUMNS + clicks:
        yield f"{path} has other columns than {', '.join(COLUMNS + clicks)}"
    if len(rows) != len(expected) or not all(map(_same, rows, expected)):
        yield f"{path} has other boxes than its scenes"
    for row in rows:
        x0, x1, y0, y1 = map(float, row[4:8])
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            yield f"{path}: image {row[0]} has a box outside of it"


def _same(row: Row, expected: Row) -> bool:
    """Whether all but the edges is equal, and those to a pixel: another machine may round otherwise."""
    edges = [abs(float(a) - float(b)) for a, b in zip(row[4:8], expected[4:8], strict=True)]
    return row[:4] + row[8:] == expected[:4] + expected[8:] and max(edges) <= 1 / min(SIZES[0])


OPEN_IMAGES = ExampleSet((NAME,), write, check)
