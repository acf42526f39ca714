"""Scenes of Open Images V6: boxes of up to 601 categories."""

import csv
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from taming.data.annotated_objects_dataset import SECONDS_WITHOUT_BAR, AnnotatedObjectsDataset
from taming.data.helper_types import Annotation, Category

logger = logging.getLogger(__name__)

OPEN_IMAGES_STRUCTURE = {
    "train": {
        "top_level": "",
        "class_descriptions": "class-descriptions-boxable.csv",
        "annotations": "oidv6-train-annotations-bbox.csv",
        "file_list": "train-images-boxable.csv",
        "files": "train",
    },
    "validation": {
        "top_level": "",
        "class_descriptions": "class-descriptions-boxable.csv",
        "annotations": "validation-annotations-bbox.csv",
        "file_list": "validation-images.csv",
        "files": "validation",
    },
    "test": {
        "top_level": "",
        "class_descriptions": "class-descriptions-boxable.csv",
        "annotations": "test-annotations-bbox.csv",
        "file_list": "test-images.csv",
        "files": "test",
    },
}
PLACE = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax")
FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")
TRAIN_ROWS = 14_000_000
"""The training set has 14.6 million boxes; with fewer than this, it is not whole."""

ID_LENGTH = 16


class AnnotatedObjectsOpenImages(AnnotatedObjectsDataset):
    """Images with Open Images' boxes; see `AnnotatedObjectsDataset`.

    `use_additional_parameters`: layouts tell which objects are occluded, depictions or seen from inside. Items have the
    fields `file_path` and `file_name`. Raises ValueError for tables that lack what those of Open Images have.
    """

    source = "get it from https://storage.googleapis.com/openimages/web/download.html"

    def __init__(self, use_additional_parameters: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_additional_parameters = use_additional_parameters
        try:
            self._number_categories(load_categories(self.paths["class_descriptions"]))
            annotations = load_annotations(
                self.paths["annotations"], self.min_object_area, self.category_mapping, self.category_number
            )
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self._select_images(annotations)

    def get_path_structure(self) -> Mapping[str, str]:
        if self.split not in OPEN_IMAGES_STRUCTURE:
            raise ValueError(f"{self.name}: no split {self.split!r}; choose from {', '.join(OPEN_IMAGES_STRUCTURE)}")
        return OPEN_IMAGES_STRUCTURE[self.split]

    def get_image_path(self, image_id: str) -> Path:
        return self.paths["files"] / f"{image_id:0>{ID_LENGTH}}.jpg"

    def get_image_description(self, image_id: str) -> Mapping[str, Any]:
        path = self.get_image_path(image_id)
        return {"file_path": str(path), "file_name": path.name}


def load_annotations(
    descriptor_path: str | os.PathLike,
    min_object_area: float,
    category_mapping: Mapping[str, str],
    category_no_for_id: Mapping[str, int],
) -> dict[str, list[Annotation]]:
    """The boxes of at least `min_object_area` of a table, by their image's id; `id` is the row's number, from 0.

    Labels are replaced by `category_mapping`, once; boxes whose category is not in `category_no_for_id` are left out. A
    flag that is -1, unknown, counts as set: the published models learnt it so. Raises ValueError for a table that is
    empty, lacks a column, or has a row that cannot be read.
    """
    annotations: dict[str, list[Annotation]] = {}
    index = -1
    rows = _rows(descriptor_path)
    pick = _picker(next(rows, []), descriptor_path)
    for index, row in enumerate(tqdm(rows, desc="annotations", unit=" boxes", delay=SECONDS_WITHOUT_BAR)):
        try:
            found = _annotation(index, pick(row), min_object_area, category_mapping, category_no_for_id)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{descriptor_path}: row {index} after the header cannot be read: {error}") from None
        if found is not None:
            annotations.setdefault(found.image_id, []).append(found)
    if index < 0:
        raise ValueError(f"{descriptor_path} has no boxes; {AnnotatedObjectsOpenImages.source}")
    is_train = Path(descriptor_path).name == OPEN_IMAGES_STRUCTURE["train"]["annotations"]
    if is_train and index + 1 < TRAIN_ROWS:
        logger.warning(
            "%s has %d boxes, fewer than the %d of the whole training set", descriptor_path, index + 1, TRAIN_ROWS
        )
    return annotations


def _picker(header: Sequence[str], path: str | os.PathLike) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """A function from a row to its fields of PLACE and FLAGS; a dict for each of millions of rows takes its time."""
    missing = [column for column in (*PLACE, *FLAGS) if column not in header]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; {AnnotatedObjectsOpenImages.source}")
    return itemgetter(*(header.index(column) for column in (*PLACE, *FLAGS)))


def _annotation(
    index: int,
    fields: Sequence[str],
    min_object_area: float,
    category_mapping: Mapping[str, str],
    category_no_for_id: Mapping[str, int],
) -> Annotation | None:
    image_id, source, label, confidence, *place = fields[: len(PLACE)]
    category_id = category_mapping.get(label, label)
    if category_id not in category_no_for_id:
        return None
    x0, x1, y0, y1 = map(float, place)
    width, height = x1 - x0, y1 - y0
    if width * height < min_object_area:
        return None
    occluded, truncated, group, depiction, inside = (bool(int(flag)) for flag in fields[len(PLACE) :])
    return Annotation(
        area=width * height,
        # Millions of rows share few of these strings.
        image_id=sys.intern(image_id),
        bbox=(x0, y0, width, height),
        category_no=category_no_for_id[category_id],
        category_id=sys.intern(category_id),
        id=index,
        source=sys.intern(source),
        confidence=float(confidence),
        is_group_of=group,
        is_truncated=truncated,
        is_occluded=occluded,
        is_depiction=depiction,
        is_inside=inside,
    )


def load_categories(csv_path: str | os.PathLike) -> dict[str, Category]:
    """The categories of a table of ids and names, with or without a header, by id; ValueError for another table."""
    rows = list(_rows(csv_path))
    if rows and not rows[0][0].startswith("/"):  # newer files have a header
        rows = rows[1:]
    for row in rows:
        if len(row) != 2:
            raise ValueError(f"{csv_path}: {','.join(row)!r} is no pair of id and name")
    return {id_: Category(id=id_, super_category=None, name=name) for id_, name in rows}


def load_image_ids(csv_path: str | os.PathLike) -> list[str]:
    """The column `image_name` of a list of images."""
    header, *rows = list(_rows(csv_path)) or [[]]
    if "image_name" not in header:
        raise ValueError(f"{csv_path} has no column image_name")
    return [row[header.index("image_name")] for row in rows]


def _rows(path: str | os.PathLike) -> Iterator[list[str]]:
    """Rows of a table in UTF-8 that are not blank; ValueError for another file."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        try:
            yield from filter(None, rows)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}, after line {rows.line_num}: no table in UTF-8: {error}") from None
