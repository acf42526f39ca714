"""Scenes: images whose objects are annotated with boxes, and their layouts as tokens."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import Resize

from taming.data._io import read_rgb
from taming.data.base import dotted_name
from taming.data.conditional_builder.objects_bbox import ObjectsBoundingBoxConditionalBuilder
from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder
from taming.data.conditional_builder.utils import load_object_from_string
from taming.data.helper_types import Annotation, BoundingBox, Category, CropMethodType, ImageDescription, SplitType
from taming.data.image_transforms import (
    CenterCropReturnCoordinates,
    Random2dCropReturnCoordinates,
    RandomCrop1dReturnCoordinates,
    RandomHorizontalFlipReturn,
)

logger = logging.getLogger(__name__)

CROP_METHODS = ("none", "center", "random-1d", "random-2d")
CROPS = (CenterCropReturnCoordinates, RandomCrop1dReturnCoordinates, Random2dCropReturnCoordinates)
SUITCASE = "/m/01s55n"
"""Open Images' category that comes last: it was added when the others already had their numbers."""

NAMED = 5
SECONDS_WITHOUT_BAR = 2
"""Reading annotations shows its progress if it takes longer."""


class AnnotatedObjectsDataset(Dataset):
    """Base of the datasets of scenes: which images and categories are used, and what an item holds.

    An image is used if it has min_objects_per_image to max_objects_per_image objects of more than `min_object_area` (a
    share of the image). `keys` are the keys of an item, in this order: `image` float32 (s, s, 3) in [-1, 1] with s =
    target_image_size, `image_path`, `crop_bbox`, `flipped`, `annotations`, fields of the image's description, and
    layouts as tokens, `objects_bbox` and `objects_center_points`; with no keys, description and annotations.
    `crop_method` (`none`, `center`, `random-1d`, `random-2d`; see `setup_transform`) may be None where there is no
    image. `antialias` is that of torchvision's resizing; the published models saw images without.

    Category numbers, from 0, follow the ids as strings. `category_allow_list_target` names a list of (name, count), the
    categories to keep, `category_mapping_target` a dict from ids to the ids that take their place. `no_object_classes`
    is for the layouts, by default the number of categories. The other parameters are those of the builders of layouts.

    Subclasses set `categories` and `image_descriptions` and call `_number_categories`, then `_select_images`. They tell
    how their files lie, `get_path_structure`, and where to get them, `source`.
    """

    source = ""

    def __init__(
        self,
        data_path: str | os.PathLike,
        split: SplitType,
        keys: Sequence[str],
        target_image_size: int,
        min_object_area: float,
        min_objects_per_image: int,
        max_objects_per_image: int,
        crop_method: CropMethodType | None,
        random_flip: bool,
        no_tokens: int,
        use_group_parameter: bool,
        encode_crop: bool,
        category_allow_list_target: str = "",
        category_mapping_target: str = "",
        no_object_classes: int | None = None,
        antialias: bool = False,
    ) -> None:
        self.name = dotted_name(type(self))
        self.data_path = data_path
        self.split = split
        self.keys = list(keys)
        self.target_image_size = target_image_size
        self.min_object_area = min_object_area
        self.min_objects_per_image = min_objects_per_image
        self.max_objects_per_image = max_objects_per_image
        self.crop_method = crop_method
        self.random_flip = random_flip
        self.no_tokens = no_tokens
        self.use_group_parameter = use_group_parameter
        self.encode_crop = encode_crop
        self.category_allow_list_target = category_allow_list_target
        self.category_mapping_target = category_mapping_target
        self.no_object_classes = no_object_classes
        self.antialias = antialias
        self._start_empty()
        self.transform_functions = self._transforms()
        self.paths = self.build_paths(self.data_path)

    def _start_empty(self) -> None:
        """No images and categories yet, which subclasses fill in, but the rules for categories."""
        self.annotations: dict[str, list[Annotation]] = {}
        self.image_descriptions: dict[str, ImageDescription] = {}
        self.categories: dict[str, Category] = {}
        self.category_ids: list[str] = []
        self.category_number: dict[str, int] = {}
        self.image_ids: list[str] = []
        self.category_allow_list, self.category_mapping = self._category_rules()

    def _category_rules(self) -> tuple[set[str] | None, dict[str, str]]:
        """Names of the categories to keep, None for all, and the ids that others take the place of."""
        allowed, mapping = self.category_allow_list_target, self.category_mapping_target
        names = {name for name, _ in load_object_from_string(allowed)} if allowed else None
        return names, dict(load_object_from_string(mapping)) if mapping else {}

    def _transforms(self) -> list[Callable]:
        if self.crop_method is None and "image" not in self.keys:
            return []
        try:
            return self.setup_transform(self.target_image_size, self.crop_method, self.random_flip, self.antialias)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def build_paths(self, top_level: str | os.PathLike) -> dict[str, Path]:
        """Where the files of the split are. Raises FileNotFoundError if one is missing."""
        paths = {name: Path(top_level, sub_path) for name, sub_path in self.get_path_structure().items()}
        for path in paths.values():
            if not path.exists():
                raise FileNotFoundError(f"{self.name}: {path} does not exist; {self.source}")
        return paths

    @staticmethod
    def setup_transform(
        target_image_size: int, crop_method: CropMethodType, random_flip: bool, antialias: bool = False
    ) -> list[Callable]:
        """Steps from uint8 images (3, h, w) to float32 (3, s, s) in [-1, 1], s = target_image_size.

        `none` scales both sides to s; `center` and `random-1d` scale the shorter side to s and cut a square at the
        centre or anywhere; `random-2d` cuts a random square of at least s and scales it to s. ValueError for others.
        """
        square = Resize((target_image_size, target_image_size), antialias=antialias)
        shorter_side = Resize(target_image_size, antialias=antialias)
        steps: dict[str, list[Callable]] = {
            "none": [square],
            "center": [shorter_side, CenterCropReturnCoordinates(target_image_size)],
            "random-1d": [shorter_side, RandomCrop1dReturnCoordinates(target_image_size)],
            "random-2d": [Random2dCropReturnCoordinates(target_image_size), square],
        }
        if crop_method not in steps:
            raise ValueError(f"unknown crop_method {crop_method!r}; choose from {', '.join(CROP_METHODS)}")
        flip = [RandomHorizontalFlipReturn()] if random_flip else []
        return [*steps[crop_method], *flip, _to_model_range]

    def image_transform(self, x: Tensor) -> tuple[BoundingBox | None, bool | None, Tensor]:
        """Image uint8 (3, h, w) -> what the crop shows of it, None if there is none, whether it is flipped, None if it
        never is, and the result of all steps."""
        crop_bbox = flipped = None
        for step in self.transform_functions:
            if isinstance(step, RandomHorizontalFlipReturn):
                flipped, x = step(x)
            elif isinstance(step, CROPS):
                crop_bbox, x = step(x)
            else:
                x = step(x)
        return crop_bbox, flipped, x

    @property
    def no_classes(self) -> int:
        """Number of classes in layouts."""
        return self.no_object_classes or len(self.categories)

    @cached_property
    def conditional_builders(self) -> dict[str, ObjectsCenterPointsConditionalBuilder]:
        """What makes tokens of annotations, by the item's key."""
        kinds = {
            "objects_center_points": ObjectsCenterPointsConditionalBuilder,
            "objects_bbox": ObjectsBoundingBoxConditionalBuilder,
        }
        return {
            key: kind(
                no_object_classes=self.no_classes,
                no_max_objects=self.max_objects_per_image,
                no_tokens=self.no_tokens,
                encode_crop=self.encode_crop,
                use_group_parameter=self.use_group_parameter,
                use_additional_parameters=getattr(self, "use_additional_parameters", False),
            )
            for key, kind in kinds.items()
        }

    def filter_categories(self) -> None:
        """Keep the categories of the allow list, if there is one, and of those the ones that keep their own id."""
        if self.category_allow_list is not None:
            missing = sorted(self.category_allow_list - {category.name for category in self.categories.values()})
            if missing:
                logger.warning(
                    "%s: %d names of %s are no categories: %s%s",
                    *(self.name, len(missing), self.category_allow_list_target, ", ".join(missing[:NAMED])),
                    ", ..." if len(missing) > NAMED else "",
                )
        self.categories = {
            id_: category
            for id_, category in self.categories.items()
            if self.category_allow_list is None or category.name in self.category_allow_list
            if id_ not in self.category_mapping
        }

    def setup_category_id_and_number(self) -> None:
        """Number the categories by their ids as strings, which is what the tokens of published models mean."""
        self.category_ids = sorted(self.categories, key=lambda id_: (id_ == SUITCASE, id_))
        self.category_number = {id_: number for number, id_ in enumerate(self.category_ids)}

    def _number_categories(self, categories: Mapping[str, Category]) -> None:
        self.categories = dict(categories)
        self.filter_categories()
        self.setup_category_id_and_number()

    @staticmethod
    def filter_object_number(
        all_annotations: Mapping[str, Iterable[Annotation]],
        min_object_area: float,
        min_objects_per_image: int,
        max_objects_per_image: int,
    ) -> dict[str, list[Annotation]]:
        """The objects of more than min_object_area, of the images that have neither too few nor too many of them."""
        large_enough = {
            image_id: [annotation for annotation in annotations if annotation.area > min_object_area]
            for image_id, annotations in all_annotations.items()
        }
        return {
            image_id: annotations
            for image_id, annotations in large_enough.items()
            if min_objects_per_image <= len(annotations) <= max_objects_per_image
        }

    def clean_up_annotations_and_image_descriptions(self) -> None:
        """Forget the images that are not used."""
        used = set(self.image_ids)
        self.annotations = {id_: found for id_, found in self.annotations.items() if id_ in used}
        self.image_descriptions = {id_: found for id_, found in self.image_descriptions.items() if id_ in used}

    def _select_images(self, all_annotations: Mapping[str, Iterable[Annotation]]) -> None:
        """Use the images that have enough objects. Raises ValueError if there is none."""
        limits = self.min_object_area, self.min_objects_per_image, self.max_objects_per_image
        self.annotations = self.filter_object_number(all_annotations, *limits)
        self.image_ids = list(self.annotations)
        self.clean_up_annotations_and_image_descriptions()
        if not self.image_ids:
            raise ValueError(
                f"{self.name}: of {len(all_annotations)} annotated images in {self.data_path} none has {limits[1]} to "
                f"{limits[2]} objects of more than {limits[0]} of its area; change min_objects_per_image, "
                "max_objects_per_image or min_object_area"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, n: int) -> dict[str, Any]:
        image_id = self.get_image_id(n)
        item = dict(self.get_image_description(image_id))
        item["annotations"] = list(self.get_annotation(image_id))
        if "image" in self.keys:
            item |= self._image(image_id)
        crop_and_flip = item.get("crop_bbox"), bool(item.get("flipped"))
        for key, builder in self.conditional_builders.items():
            if key in self.keys:
                item[key] = builder.build(item["annotations"], *crop_and_flip)
        if not self.keys:
            return item
        unknown = [key for key in self.keys if key not in item]
        if unknown:
            raise KeyError(
                f"{self.name}: no {unknown[0]!r} in an item; keys may be {', '.join(self._known_keys(item))}"
            )
        return {key: item[key] for key in self.keys}

    def _known_keys(self, item: Mapping[str, Any]) -> list[str]:
        with_image = ("image_path", "crop_bbox", "flipped", "image") if "image" in self.keys else ("image",)
        return list(dict.fromkeys([*item, *with_image, *self.conditional_builders]))

    def _image(self, image_id: str) -> dict[str, Any]:
        path = self.get_image_path(image_id)
        pixels = read_rgb(path, self.name, hint=f"it is annotated in {self.data_path}")
        crop_bbox, flipped, image = self.image_transform(torch.from_numpy(rearrange(pixels, "h w c -> c h w")))
        return {
            "image_path": str(path),
            "crop_bbox": crop_bbox,
            "flipped": flipped,
            "image": rearrange(image, "c h w -> h w c"),
        }

    def get_image_id(self, no: int) -> str:
        """Id of the image at a position of the dataset."""
        return self.image_ids[no]

    def get_annotation(self, image_id: str) -> list[Annotation]:
        """The objects of an image."""
        return self.annotations[image_id]

    def get_textual_label_for_category_id(self, category_id: str) -> str:
        """Name of a category."""
        return self.categories[category_id].name

    def get_textual_label_for_category_no(self, category_no: int) -> str:
        """Name of a category by its number."""
        return self.categories[self.get_category_id(category_no)].name

    def get_category_number(self, category_id: str) -> int:
        """Number of a category; KeyError for an id that is not in use."""
        return self.category_number[category_id]

    def get_category_id(self, category_no: int) -> str:
        """Id of the category of this number."""
        return self.category_ids[category_no]

    def get_image_description(self, image_id: str) -> Mapping[str, Any]:
        """Fields that an item has besides annotations and image."""
        raise NotImplementedError

    def get_path_structure(self) -> Mapping[str, str]:
        """The files and folders of the split, below data_path. Raises ValueError for a split that there is not."""
        raise NotImplementedError

    def get_image_path(self, image_id: str) -> Path:
        """The file of an image."""
        raise NotImplementedError


def _to_model_range(x: Tensor) -> Tensor:
    """0 to 255 -> float32 in [-1, 1]."""
    return x / 127.5 - 1
