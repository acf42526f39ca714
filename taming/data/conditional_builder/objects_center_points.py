"""Scene layouts as token sequences: for each object what it is and where its centre lies."""

import logging
import math
import random
from collections.abc import Callable, Sequence
from itertools import chain, cycle

import numpy as np
import PIL.Image
import torch
from PIL.ImageDraw import Draw, ImageDraw
from torch import Tensor

from taming.data.conditional_builder.utils import (
    COLOR_PALETTE,
    FULL_CROP,
    GRAY_75,
    WHITE,
    additional_parameters_string,
    check_box,
    checked_crop,
    draw_label,
    filter_annotations,
    get_circle_size,
    get_plot_font_size,
    horizontally_flip_bbox,
    load_font,
    pad_list,
    pixel_corners,
    rescale_annotations,
)
from taming.data.helper_types import Annotation, BoundingBox
from taming.images import from_uint8

logger = logging.getLogger(__name__)

GROUP, OCCLUDED, DEPICTION, INSIDE = 1, 2, 4, 8
"""Bits of an object's modifier."""


class ObjectsCenterPointsConditionalBuilder:
    """Annotations of a scene -> tokens, and back to what can be drawn.

    An object is `object_descriptor_length` tokens: its category with its modifier, category_no + no_object_classes *
    modifier, then its place on a grid of no_sections x no_sections points. Classes and places share the vocabulary
    0...no_tokens - 1, whose last token, `none`, stands for objects that are missing from no_max_objects. With
    `encode_crop` the sequence ends with the two corners of the crop, and objects are placed in the full image; without,
    in the crop. `use_group_parameter` and `use_additional_parameters` (occluded, depiction, inside) say which flags of
    an annotation go into the modifier.

    Raises ValueError for sizes that make no vocabulary or no sequence.
    """

    def __init__(
        self,
        no_object_classes: int,
        no_max_objects: int,
        no_tokens: int,
        encode_crop: bool,
        use_group_parameter: bool,
        use_additional_parameters: bool,
    ) -> None:
        for name, value, minimum in (
            ("no_object_classes", no_object_classes, 1),
            ("no_max_objects", no_max_objects, 1),
            ("no_tokens", no_tokens, 4),  # a grid of one point has no distance between its points
        ):
            if value < minimum:
                raise ValueError(f"{type(self).__name__}: {name} must be at least {minimum}, not {value}")
        self.no_object_classes = no_object_classes
        self.no_max_objects = no_max_objects
        self.no_tokens = no_tokens
        self.encode_crop = encode_crop
        self.use_group_parameter = use_group_parameter
        self.use_additional_parameters = use_additional_parameters
        self.no_sections = math.isqrt(no_tokens)

    @property
    def none(self) -> int:
        """Token of an object that is not there."""
        return self.no_tokens - 1

    @property
    def object_descriptor_length(self) -> int:
        """Tokens per object."""
        return 2

    @property
    def embedding_dim(self) -> int:
        """Tokens per layout."""
        return self.no_max_objects * self.object_descriptor_length + 2 * bool(self.encode_crop)

    def tokenize_coordinates(self, x: float, y: float) -> int:
        """Nearest point of the grid, halves to the even one; ValueError where (x, y) is nearer to a point outside."""
        column, row = x * (self.no_sections - 1), y * (self.no_sections - 1)
        if not all(-0.5 <= place < self.no_sections - 0.5 for place in (column, row)):
            raise ValueError(f"coordinates ({x}, {y}) are outside the image, where both are 0 to 1")
        return round(row) * self.no_sections + round(column)

    def coordinates_from_token(self, token: int) -> tuple[float, float]:
        """(x, y) of a point of the grid; tokens behind its last point lie below the image."""
        row, column = divmod(token, self.no_sections)
        return column / (self.no_sections - 1), row / (self.no_sections - 1)

    def token_pair_from_bbox(self, bbox: BoundingBox) -> tuple[int, int]:
        """Tokens of the upper left and the lower right corner."""
        x0, y0, width, height = bbox
        return self.tokenize_coordinates(x0, y0), self.tokenize_coordinates(x0 + width, y0 + height)

    def bbox_from_token_pair(self, token1: int, token2: int) -> BoundingBox:
        """The box between two points; its size is negative where the second does not follow the first."""
        x0, y0 = self.coordinates_from_token(token1)
        x1, y1 = self.coordinates_from_token(token2)
        return x0, y0, x1 - x0, y1 - y0

    def object_representation(self, annotation: Annotation) -> int:
        """Category and modifier in one number; ValueError for a category that the builder does not have.

        A flag counts only if it is the boolean True: the published COCO models never saw the group bit, which that
        dataset holds as a number.
        """
        if not 0 <= annotation.category_no < self.no_object_classes:
            raise ValueError(
                f"category {annotation.category_no} of an annotation is none of the "
                f"no_object_classes={self.no_object_classes} categories, which count from 0"
            )
        modifier = 0
        if self.use_group_parameter:
            modifier += GROUP * (annotation.is_group_of is True)
        if self.use_additional_parameters:
            modifier += OCCLUDED * (annotation.is_occluded is True)
            modifier += DEPICTION * (annotation.is_depiction is True)
            modifier += INSIDE * (annotation.is_inside is True)
        return annotation.category_no + self.no_object_classes * modifier

    def representation_to_annotation(self, representation: int) -> Annotation:
        """An annotation with category and flags only, everything else None; flags that are not in use are False."""
        modifier, category_no = divmod(representation, self.no_object_classes)
        modifier &= self._modifier_bits
        return Annotation(
            area=None,
            image_id=None,
            bbox=None,
            category_no=category_no,
            category_id=None,
            is_group_of=bool(modifier & GROUP),
            is_occluded=bool(modifier & OCCLUDED),
            is_depiction=bool(modifier & DEPICTION),
            is_inside=bool(modifier & INSIDE),
        )

    @property
    def _modifier_bits(self) -> int:
        """The bits that this builder writes."""
        return GROUP * bool(self.use_group_parameter) + (OCCLUDED + DEPICTION + INSIDE) * bool(
            self.use_additional_parameters
        )

    def build(
        self,
        annotations: Sequence[Annotation],
        crop_coordinates: BoundingBox | None = None,
        horizontal_flip: bool = False,
        *,
        rng: random.Random | None = None,
    ) -> Tensor:
        """Tokens (embedding_dim,), int64, of what the crop (default: the full image) shows of a scene.

        Objects come in an order that `rng` (default: Python's global generator) draws anew at each call; the list given
        stays as it is. Of more than no_max_objects the first are taken. Boxes are limited to the image. Raises
        ValueError for an unknown category, a class token beyond no_tokens, a box that is not relative to the image, a
        crop that is not inside it.
        """
        crop = checked_crop(crop_coordinates)
        objects = self._first_objects(annotations)
        (rng or random).shuffle(objects)
        objects = filter_annotations(objects, crop)
        objects = rescale_annotations(objects, FULL_CROP if self.encode_crop else crop, horizontal_flip)
        missing = (self.none,) * self.object_descriptor_length
        descriptors = pad_list([self._descriptor(annotation) for annotation in objects], missing, self.no_max_objects)
        tokens = list(chain.from_iterable(descriptors))
        if self.encode_crop:
            tokens += self.token_pair_from_bbox(horizontally_flip_bbox(crop) if horizontal_flip else crop)
        assert len(tokens) == self.embedding_dim
        return torch.tensor(tokens, dtype=torch.long)

    def _first_objects(self, annotations: Sequence[Annotation]) -> list[Annotation]:
        """A new list of no more than no_max_objects."""
        if len(annotations) == 0:
            logger.warning("a layout without any object")
        if len(annotations) > self.no_max_objects:
            logger.warning("%d objects, of which the first %d are used", len(annotations), self.no_max_objects)
        objects = list(annotations[: self.no_max_objects])
        for annotation in objects:
            check_box(annotation)
        return objects

    def _descriptor(self, annotation: Annotation) -> tuple[int, ...]:
        """The tokens of one object."""
        representation = self.object_representation(annotation)
        if representation >= self.no_tokens:
            flags = additional_parameters_string(annotation, short=False)
            raise ValueError(
                f"object token {representation} of category {annotation.category_no}{flags} is not below "
                f"no_tokens={self.no_tokens}: use more tokens, or switch off use_group_parameter or "
                "use_additional_parameters"
            )
        return representation, *self._place_tokens(annotation.bbox)

    def _place_tokens(self, bbox: BoundingBox) -> tuple[int, ...]:
        x0, y0, width, height = bbox
        return (self.tokenize_coordinates(x0 + width / 2, y0 + height / 2),)

    def inverse_build(
        self, conditional: Tensor | Sequence[int]
    ) -> tuple[list[tuple[int, tuple[float, ...]]], BoundingBox | None]:
        """The objects of a token sequence, as (representation, place), and the crop if it is encoded.

        The place is (x, y) for points and (x0, y0, width, height) for boxes. Any tokens will do, those that a model
        made up too. Raises ValueError if their number is not embedding_dim.
        """
        tokens = torch.as_tensor(conditional)
        if tokens.shape != (self.embedding_dim,):
            raise ValueError(
                f"a layout of {type(self).__name__} is a sequence of embedding_dim={self.embedding_dim} tokens, "
                f"not of shape {tuple(tokens.shape)}"
            )
        tokens = tokens.tolist()
        crop = self.bbox_from_token_pair(*tokens[-2:]) if self.encode_crop else None
        length = self.object_descriptor_length
        groups = [tokens[i * length : (i + 1) * length] for i in range(self.no_max_objects)]
        return [(first, self._place(*place)) for first, *place in groups if first != self.none], crop

    def _place(self, *tokens: int) -> tuple[float, ...]:
        """Inverse of `_place_tokens`, up to the grid."""
        return self.coordinates_from_token(*tokens)

    def plot(
        self,
        conditional: Tensor | Sequence[int],
        label_for_category_no: Callable[[int], str],
        figure_size: tuple[int, int],
        line_width: int = 3,
        font_size: int | None = None,
    ) -> Tensor:
        """Picture of a layout, float32 (3, height, width) in [-1, 1]; `figure_size` is (width, height) in pixels.

        Objects that the vocabulary has no class for are labelled `?`.
        """
        objects, crop = self.inverse_build(conditional)
        width, height = figure_size
        canvas = PIL.Image.new("RGB", (width, height), WHITE)
        draw = Draw(canvas)
        font = load_font(get_plot_font_size(font_size, figure_size))
        for (representation, place), color in zip(objects, cycle(COLOR_PALETTE), strict=False):
            position, anchor = self._draw_object(draw, place, color, figure_size, line_width)
            label = self._label(representation, label_for_category_no)
            draw_label(draw, position, label, font=font, anchor=anchor)
        if crop is not None:
            draw.rectangle(pixel_corners(crop, figure_size), outline=GRAY_75, width=line_width)
        return from_uint8(np.array(canvas))

    def _label(self, representation: int, label_for_category_no: Callable[[int], str]) -> str:
        if representation // self.no_object_classes & ~self._modifier_bits:
            return "?"
        annotation = self.representation_to_annotation(representation)
        try:
            label = label_for_category_no(annotation.category_no)
        except LookupError:  # the builder may have more classes than the dataset has categories
            return "?"
        return f"{label} {additional_parameters_string(annotation)}"

    def _draw_object(
        self,
        draw: ImageDraw,
        place: tuple[float, ...],
        color: tuple[int, int, int],
        figure_size: tuple[int, int],
        line_width: int,
    ) -> tuple[tuple[float, float], str]:
        """Draw one object without its label; returns the label's position in pixels and its anchor."""
        x, y = place[0] * figure_size[0], place[1] * figure_size[1]
        radius = get_circle_size(figure_size)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        return (x, y), "md"
