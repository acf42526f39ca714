"""Boxes, annotations and drawing: what the builders of scene layouts share.

Boxes are (x0, y0, width, height) relative to the image, 0 to 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from PIL import ImageFont
from PIL.ImageDraw import ImageDraw

from taming.config import get_obj_from_str
from taming.data.helper_types import Annotation, BoundingBox

Element = TypeVar("Element")

COLOR_PALETTE = [
    (30, 118, 179),
    (255, 126, 13),
    (43, 159, 43),
    (213, 38, 39),
    (147, 102, 188),
    (139, 85, 74),
    (226, 118, 193),
    (126, 126, 126),
    (187, 188, 33),
    (22, 189, 206),
]
BLACK = (0, 0, 0)
GRAY_75 = (63, 63, 63)
GRAY_50 = (127, 127, 127)
GRAY_25 = (191, 191, 191)
WHITE = (255, 255, 255)
FULL_CROP: BoundingBox = (0.0, 0.0, 1.0, 1.0)

ROUNDING = 1e-6
"""How far floating-point error may put a crop outside the image."""


def intersection_area(rectangle1: BoundingBox, rectangle2: BoundingBox) -> float:
    """Area that two boxes share, at least 0."""
    x1, y1, width1, height1 = rectangle1
    x2, y2, width2, height2 = rectangle2
    width = min(x1 + width1, x2 + width2) - max(x1, x2)
    height = min(y1 + height1, y2 + height2) - max(y1, y2)
    return max(0.0, width) * max(0.0, height)


def horizontally_flip_bbox(bbox: BoundingBox) -> BoundingBox:
    """The box in the mirrored image."""
    x0, y0, width, height = bbox
    return 1 - (x0 + width), y0, width, height


def absolute_bbox(relative_bbox: BoundingBox, width: int, height: int) -> tuple[int, int, int, int]:
    """Corners (x0, y0, x1, y1) in pixels of an image of this size, truncated."""
    x0, y0, box_width, box_height = relative_bbox
    return int(x0 * width), int(y0 * height), int((x0 + box_width) * width), int((y0 + box_height) * height)


def pixel_corners(bbox: BoundingBox, figure_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box in pixels, its smaller coordinates first: those of arbitrary tokens come in any order."""
    x0, y0, x1, y1 = absolute_bbox(bbox, *figure_size)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def pad_list(list_: Sequence[Element], pad_element: Element, pad_to_length: int) -> list[Element]:
    """New list, filled up to the length on the right; a longer one is not cut."""
    return [*list_, *[pad_element] * (pad_to_length - len(list_))]


def filter_annotations(annotations: Iterable[Annotation], crop_coordinates: BoundingBox) -> list[Annotation]:
    """The annotations of which the crop shows something."""
    return [annotation for annotation in annotations if intersection_area(annotation.bbox, crop_coordinates) > 0]


def rescale_annotations(
    annotations: Iterable[Annotation], crop_coordinates: BoundingBox, flip: bool
) -> list[Annotation]:
    """New annotations with boxes relative to the crop, limited to it, and mirrored if `flip`.

    A box that begins left of or above the crop keeps its full width or height: the published models learnt from boxes
    that are limited on the far side only.
    """
    boxes = [(annotation, _rescaled(annotation.bbox, crop_coordinates)) for annotation in annotations]
    return [annotation._replace(bbox=horizontally_flip_bbox(bbox) if flip else bbox) for annotation, bbox in boxes]


def _rescaled(bbox: BoundingBox, crop: BoundingBox) -> BoundingBox:
    x0 = _clamp((bbox[0] - crop[0]) / crop[2])
    y0 = _clamp((bbox[1] - crop[1]) / crop[3])
    return x0, y0, min(bbox[2] / crop[2], 1 - x0), min(bbox[3] / crop[3], 1 - y0)


def _clamp(value: float) -> float:
    return max(0.0, min(1.0, value))


def checked_crop(crop_coordinates: Sequence[float] | None) -> BoundingBox:
    """The crop as floats, FULL_CROP for none; ValueError for one that is empty or, rounding aside, leaves the image."""
    if crop_coordinates is None or len(crop_coordinates) == 0:
        return FULL_CROP
    x0, y0, width, height = map(float, crop_coordinates)
    inside = all(-ROUNDING <= place <= 1 + ROUNDING for place in (x0, y0, x0 + width, y0 + height))
    if not (inside and width > 0 and height > 0):
        raise ValueError(
            f"crop_coordinates {(x0, y0, width, height)} are no part of the image: x0, y0, width, height must be "
            "relative to it, 0 to 1"
        )
    return x0, y0, width, height


def check_box(annotation: Annotation) -> None:
    """ValueError for a box that cannot be relative to its image, such as one in pixels.

    Datasets hold boxes that leave the image a little; those pass, for `rescale_annotations` limits them to it.
    """
    x0, y0, width, height = annotation.bbox
    if not all(-1 <= place <= 2 for place in (x0, y0, x0 + width, y0 + height)):
        raise ValueError(
            f"bbox {tuple(annotation.bbox)} of an annotation of category {annotation.category_no} is not relative to "
            "the image: x0, y0, width, height must be 0 to 1; divide pixels by the image's size"
        )


def additional_parameters_string(annotation: Annotation, short: bool = True) -> str:
    """What is special about an object, as in `(g,o)` or, not `short`, `(group,occluded)`; '' if nothing is."""
    flags = {
        "group": annotation.is_group_of,
        "occluded": annotation.is_occluded,
        "depiction": annotation.is_depiction,
        "inside": annotation.is_inside,
    }
    words = [word[0] if short else word for word, is_set in flags.items() if is_set]
    return f"({','.join(words)})" if words else ""


def get_plot_font_size(font_size: int | None, figure_size: tuple[int, int]) -> int:
    """The given size, or one that suits a figure of (width, height) pixels."""
    return _by_size(figure_size, (10, 12, 15)) if font_size is None else font_size


def get_circle_size(figure_size: tuple[int, int]) -> int:
    """Radius in pixels of the dots in a figure of (width, height) pixels."""
    return _by_size(figure_size, (2, 3, 4))


def _by_size(figure_size: tuple[int, int], values: tuple[int, int, int]) -> int:
    side = max(figure_size)
    return values[(side >= 256) + (side >= 512)]


def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; of one fixed size where Pillow was built without FreeType."""
    try:
        return ImageFont.load_default(size=size)
    except ImportError:
        return ImageFont.load_default()


def draw_label(
    draw: ImageDraw, position: tuple[float, float], text: str, *, font: ImageFont.ImageFont, anchor: str
) -> None:
    """Black text at (x, y) in pixels; `anchor` as Pillow's, without effect on a bitmap font, which is Latin-1 only."""
    if isinstance(font, ImageFont.FreeTypeFont):
        draw.text(position, text, fill=BLACK, font=font, anchor=anchor)
    else:
        draw.text(position, text.encode("latin-1", "replace").decode("latin-1"), fill=BLACK, font=font)


def load_object_from_string(object_string: str) -> Any:
    """The object at a dotted path; ConfigError if there is none."""
    return get_obj_from_str(object_string)
