"""Layouts of scenes that people write by hand, as JSON:

    {"objects": [
        {"class": "person", "box": [0.1, 0.3, 0.2, 0.6]},
        {"class": "grass", "box": [0, 0.5, 1, 0.5]},
        {"class": 17, "center": [0.7, 0.8]}
    ]}

A class is a name or a number of the data set; a box is left, top, width and height as shares of the image's; a centre
alone will do for models that know no more. `"group": true`, and likewise occluded, depiction and inside, says more of
an object where the data set does.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from reprlib import repr as brief
from typing import IO, Any

from torch.utils.data import Dataset

from taming.config import suggestion
from taming.data.coco_json import load_json, read_json
from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder
from taming.data.helper_types import Annotation, BoundingBox

EXAMPLE = '{"class": "person", "box": [0.1, 0.3, 0.2, 0.6]}'
FLAGS = ("group", "occluded", "depiction", "inside")
KEYS = ("class", "box", "center", *FLAGS)
POINT = 1e-6
"""Side of the box that stands for a centre: a crop shows an object if it has an area in it."""
ROUNDING = 1e-6
"""How far floating-point error may put the far side of a box outside the image."""


@dataclass(frozen=True)
class LayoutObject:
    """A class by its name or number; its box, or its centre (x, y); the flags that are set."""

    category: str | int
    place: tuple[float, ...]
    flags: frozenset[str] = frozenset()

    @property
    def is_point(self) -> bool:
        return len(self.place) == 2

    @property
    def bbox(self) -> BoundingBox:
        """The box, tiny around a centre."""
        if not self.is_point:
            return self.place
        return self.place[0] - POINT / 2, self.place[1] - POINT / 2, POINT, POINT


@dataclass(frozen=True)
class SceneLayout:
    """The objects of a scene, and the file they come from for messages."""

    objects: tuple[LayoutObject, ...]
    source: str = "layout"

    @classmethod
    def read(cls, path: str | os.PathLike) -> "SceneLayout":
        """The layout in a file. Raises FileNotFoundError, or ValueError that tells what in the file to mend."""
        return cls.parse(read_json(path, "layout", f'write one such as {{"objects": [{EXAMPLE}]}}'), str(path))

    @classmethod
    def load(cls, file: IO, source: str) -> "SceneLayout":
        """The layout in an open file that messages call `source`. Raises ValueError."""
        return cls.parse(load_json(file, source, "layout"), source)

    @classmethod
    def parse(cls, content: Mapping[str, Any], source: str = "layout") -> "SceneLayout":
        """The layout in parsed JSON. Raises ValueError."""
        _check_keys(content, ("objects",), source)
        objects = content.get("objects")
        if not isinstance(objects, list) or not objects:
            raise ValueError(f"{source}: expected a list of at least one object as objects, such as [{EXAMPLE}]")
        parsed = tuple(_object(content, f"{source}: objects[{number}]") for number, content in enumerate(objects))
        return cls(parsed, source)

    @property
    def digest(self) -> str:
        """Hexadecimal number of 64 bits that changes with the objects."""
        facts = [(item.category, item.place, sorted(item.flags)) for item in self.objects]
        return sha256(repr(facts).encode()).hexdigest()[:16]

    @property
    def key(self) -> int:
        """What the random numbers of samples follow; a part of the digest, which is a bit too large."""
        return int(self.digest[:15], 16)

    def annotations(self, dataset: Dataset, key: str) -> list[Annotation]:
        """The objects as `dataset`, with builders of layouts by key, annotates them.

        Raises ValueError for what its layouts `key` cannot hold: unknown classes, too many objects, centres where they
        have boxes, flags that they do not have.
        """
        builder = dataset.conditional_builders[key]
        if len(self.objects) > builder.no_max_objects:
            raise ValueError(
                f"{self.source}: has {len(self.objects)} objects, but the model reads {builder.no_max_objects} at most"
            )
        names = _class_names(dataset)
        return [
            _annotation(item, f"{self.source}: objects[{number}]", names, builder, needs_box=key == "objects_bbox")
            for number, item in enumerate(self.objects)
        ]


def _object(content: Any, where: str) -> LayoutObject:
    _check_keys(content, KEYS, where)
    category = content.get("class")
    if isinstance(category, bool) or not isinstance(category, str | int):
        raise ValueError(f"{where}: class is {brief(category)}, expected the name or the number of a class")
    if ("box" in content) == ("center" in content):
        raise ValueError(f"{where}: give it either a box, [left, top, width, height], or a center, [x, y]")
    place = _box(content["box"], where) if "box" in content else _shares("center", content["center"], 2, where)
    for flag in FLAGS:
        if not isinstance(content.get(flag, False), bool):
            raise ValueError(f"{where}: {flag} is {brief(content[flag])}, expected true or false")
    return LayoutObject(category, place, frozenset(flag for flag in FLAGS if content.get(flag)))


def _check_keys(content: Any, keys: Sequence[str], where: str) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected an object with {' and '.join(keys[:2])}, not {brief(content)}")
    for key in content:
        if key not in keys:
            raise ValueError(f"{where}: unknown key {brief(key)}{suggestion(key, keys)}")


def _box(value: Any, where: str) -> tuple[float, ...]:
    left, top, width, height = box = _shares("box", value, 4, where)
    if min(width, height) == 0 or max(left + width, top + height) > 1 + ROUNDING:
        raise ValueError(
            f"{where}: box {value} is not inside the image: it is left, top, width, height, so that left + width and "
            "top + height are at most 1"
        )
    return box


def _shares(name: str, value: Any, count: int, where: str) -> tuple[float, ...]:
    """`count` numbers from 0 to 1."""
    is_list = isinstance(value, list) and len(value) == count
    if not is_list or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
        raise ValueError(f"{where}: {name} is {brief(value)}, expected {count} numbers")
    if not all(math.isfinite(x) and 0 <= x <= 1 for x in value):
        raise ValueError(f"{where}: {name} is {value}, expected shares of the image, 0 to 1; divide pixels by its size")
    return tuple(map(float, value))


def _class_names(dataset: Dataset) -> list[str]:
    """The names of a data set's classes by number; there may be fewer than its layouts have room for."""
    names: list[str] = []
    try:
        for number in range(dataset.no_classes):
            names.append(dataset.get_textual_label_for_category_no(number))
    except LookupError:
        pass
    return names


def _annotation(
    item: LayoutObject,
    where: str,
    names: Sequence[str],
    builder: ObjectsCenterPointsConditionalBuilder,
    *,
    needs_box: bool,
) -> Annotation:
    if item.is_point and needs_box:
        raise ValueError(f"{where}: has a center only, but this model reads boxes: give it a box")
    known = ["group"] * bool(builder.use_group_parameter) + [*FLAGS[1:]] * bool(builder.use_additional_parameters)
    if unknown := sorted(item.flags.difference(known)):
        raise ValueError(f"{where}: {unknown[0]} is nothing that the layouts of this data set tell; leave it out")
    number, bbox = _category_no(item.category, names, where), item.bbox
    flags = {f"is_{'group_of' if flag == 'group' else flag}": flag in item.flags for flag in FLAGS}
    return Annotation(
        area=bbox[2] * bbox[3], image_id=where, bbox=bbox, category_no=number, category_id=names[number], **flags
    )


def _category_no(category: str | int, names: Sequence[str], where: str) -> int:
    if isinstance(category, int):
        if not 0 <= category < len(names):
            raise ValueError(f"{where}: class {category} is none of the data set's, 0 to {len(names) - 1}")
        return category
    numbers: dict[str, int] = {}
    for number, name in enumerate(names):
        numbers.setdefault(name.casefold(), number)
    if category.casefold() not in numbers:
        raise ValueError(f"{where}: class {category!r} is none of the data set's{suggestion(category, names)}")
    return numbers[category.casefold()]
