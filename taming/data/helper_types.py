"""Types shared by the annotated-scene datasets, their transforms and the layout conditioning."""

from typing import Any, Literal, NamedTuple, TypeAlias

import PIL.Image
from torch import Tensor

Image: TypeAlias = Tensor | PIL.Image.Image
BoundingBox: TypeAlias = tuple[float, float, float, float]
"""x0, y0, width, height, relative to the image: 0 to 1."""
CropMethodType: TypeAlias = Literal["none", "center", "random-1d", "random-2d"]
SplitType: TypeAlias = Literal["train", "validation", "test"]


class ImageDescription(NamedTuple):
    """One image of an annotated dataset; `original_size` is (width, height) in pixels."""

    id: int
    file_name: str
    original_size: tuple[int, int]
    url: str | None = None
    license: int | None = None
    coco_url: str | None = None
    date_captured: str | None = None
    flickr_url: str | None = None
    flickr_id: str | None = None
    coco_id: str | None = None


class Category(NamedTuple):
    """One object category and the group it belongs to."""

    id: str
    super_category: str | None
    name: str


class Annotation(NamedTuple):
    """One object in one image; `area` is in the units of the dataset it comes from.

    One that was rebuilt from tokens has its category number and flags only, None elsewhere.
    """

    area: float
    image_id: str
    bbox: BoundingBox
    category_no: int
    category_id: str
    id: int | None = None
    source: str | None = None
    confidence: float | None = None
    is_group_of: bool | None = None
    is_truncated: bool | None = None
    is_occluded: bool | None = None
    is_depiction: bool | None = None
    is_inside: bool | None = None
    segmentation: Any | None = None
