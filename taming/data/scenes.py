"""Synthetic scenes: images whose class, segmentation, depth, layout and caption are known exactly.

Nothing is downloaded or stored: scene `index` is rendered when it is asked for first, always the same. The world
`simple` has few objects in strong colours, which small models learn in minutes at 32 or 64 pixels; `rich` is that of
the example data, landscapes and rooms.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import Dataset

from taming.data._io import to_float
from taming.data.base import dotted_name
from taming.data.conditional_builder.objects_bbox import ObjectsBoundingBoxConditionalBuilder
from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder
from taming.data.depth_maps import normalize_depth
from taming.data.helper_types import Annotation
from taming.data.rendering.scene import Scene
from taming.data.rendering.views import box_of, inverse_depth, relative, render
from taming.data.rendering.worlds import WORLDS

BUILDERS = {
    "objects_bbox": ObjectsBoundingBoxConditionalBuilder,
    "objects_center_points": ObjectsCenterPointsConditionalBuilder,
}
KEYS = ("image", "class_label", "human_label", "segmentation", "depth", "coord", "caption", "annotations", *BUILDERS)
SMALLEST = 16
SMALLEST_OBJECT = 0.004
"""Objects that show less than this share of the image are not annotated."""


@dataclass(frozen=True)
class Rendered:
    """What is kept of a scene: image uint8 (h, w, 3), labels uint8 (h, w), inverse depth float32 (h, w), and where the
    window was cut: its top and left."""

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    annotations: tuple[Annotation, ...]
    caption: str
    corner: tuple[int, int]


class Scenes(Dataset):
    """What both splits share; `length` scenes of `size` x `size` pixels, their kinds in turn.

    keys: those of an item, in this order, by default all: `image` float32 (size, size, 3) in [-1, 1]; `class_label`,
    the kind of scene, and its name `human_label`; `segmentation`, one-hot float32 (size, size, n_labels); `depth`
    float32 (size, size), inverse depth from -1 (farthest in the image) to 1; `coord` float64 (size, size, 1) in [0, 1),
    see `crop_size`; `caption`; `annotations`, the objects; `objects_bbox` and `objects_center_points`, those as int64
    tokens of at most `max_objects` objects by taming.data.conditional_builder with a vocabulary of `no_tokens`.

    With crop_size an item is a random square of the scene, the same each time, and `coord` tells where: raster index of
    the pixel in the scene by number of pixels. `samples` (odd) rays across a pixel smooth its edges. `keep` holds
    rendered scenes in memory. Other seeds give other scenes.

    Raises ValueError for sizes that are too small, and for unknown worlds and keys.
    """

    def __init__(
        self,
        size: int,
        length: int,
        keys: Sequence[str] | None = None,
        *,
        split: str,
        world: str = "simple",
        crop_size: int | None = None,
        seed: int = 0,
        samples: int = 3,
        no_tokens: int = 256,
        max_objects: int = 3,
        keep: bool = True,
    ) -> None:
        self.name = dotted_name(type(self))
        self.keys = list(KEYS if keys is None else keys)
        self.size, self.length, self.crop_size = size, length, crop_size
        self._check(world)
        self.world = WORLDS[world]
        self.split, self.seed, self.samples = split, seed, samples
        self.no_tokens, self.max_objects = no_tokens, max_objects
        self.class_names = list(self.world.kinds)
        self.n_classes = len(self.class_names)
        self.label_names = list(self.world.labels)
        self.n_labels = len(self.label_names)
        self._kept: dict[int, Rendered] | None = {} if keep else None

    def _check(self, world: str) -> None:
        if world not in WORLDS:
            raise ValueError(f"{self.name}: unknown world {world!r}; choose from {', '.join(WORLDS)}")
        unknown = [key for key in self.keys if key not in KEYS]
        if unknown:
            raise ValueError(f"{self.name}: unknown key {unknown[0]!r} in keys; choose from {', '.join(KEYS)}")
        shown = self.size if self.crop_size is None else self.crop_size
        if shown < SMALLEST or self.size < shown:
            raise ValueError(
                f"{self.name}: size={self.size}, crop_size={self.crop_size}: use {SMALLEST} or more, and no crop that "
                "is larger than the scene"
            )
        if self.length < 1:
            raise ValueError(f"{self.name}: length={self.length}: use 1 or more")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        rendered = self._rendered(index)
        label = index % self.n_classes
        makers = {
            "image": lambda: to_float(rendered.image),
            "class_label": lambda: label,
            "human_label": lambda: self.class_names[label],
            "segmentation": lambda: np.eye(self.n_labels, dtype=np.float32)[rendered.labels],
            "depth": lambda: normalize_depth(rendered.depth),
            "coord": lambda: self._coordinates(rendered.corner),
            "caption": lambda: rendered.caption,
            "annotations": lambda: list(rendered.annotations),
        }
        makers |= {key: lambda key=key: self._tokens(key, index, rendered.annotations) for key in BUILDERS}
        return {key: makers[key]() for key in self.keys}

    def _rendered(self, index: int) -> Rendered:
        if self._kept is None:
            return self._render(index)
        if index not in self._kept:
            self._kept[index] = self._render(index)
        return self._kept[index]

    def scene(self, index: int) -> tuple[Scene, np.random.Generator]:
        """A scene before it is rendered, and its random numbers from there on."""
        rng = np.random.Generator(np.random.PCG64([self.seed, crc32(self.split.encode()), index]))
        kind = self.class_names[index % self.n_classes]
        return self.world.make(rng, kind, self.size, self.size), rng

    def _render(self, index: int) -> Rendered:
        scene, rng = self.scene(index)
        image, view = render(scene, self.samples)
        side = self.size if self.crop_size is None else self.crop_size
        top, left = (int(place) for place in rng.integers(0, self.size - side + 1, 2))
        window = (slice(top, top + side), slice(left, left + side))
        owners = view.owners[window]
        return Rendered(
            image[window].copy(),
            self.world.owner_labels(scene)[owners],
            inverse_depth(view.depth[window]),
            self._annotations(scene, owners, index),
            scene.caption,
            (top, left),
        )

    def _annotations(self, scene: Scene, owners: np.ndarray, index: int) -> tuple[Annotation, ...]:
        """The `max_objects` objects that show most, largest first."""
        pixels = np.bincount(owners.ravel(), minlength=len(scene.instances))
        seen = [number for number in scene.objects if pixels[number] >= max(SMALLEST_OBJECT * owners.size, 1)]
        seen.sort(key=lambda number: (-pixels[number], number))
        labels = self.world.owner_labels(scene)
        return tuple(
            self._annotation(number, self.label_names[labels[number]], owners == number, index)
            for number in seen[: self.max_objects]
        )

    def _annotation(self, number: int, name: str, mask: np.ndarray, index: int) -> Annotation:
        bbox = relative(box_of(mask), mask.shape[1], mask.shape[0])
        return Annotation(
            area=bbox[2] * bbox[3],
            image_id=str(index),
            bbox=bbox,
            category_no=self.world.objects.index(name),
            category_id=name,
            id=number,
        )

    def _coordinates(self, corner: tuple[int, int]) -> np.ndarray:
        ramp = np.arange(self.size**2).reshape(self.size, self.size, 1) / self.size**2
        side = self.size if self.crop_size is None else self.crop_size
        top, left = corner
        return ramp[top : top + side, left : left + side]

    def _tokens(self, key: str, index: int, annotations: tuple[Annotation, ...]):
        with _python_random(f"{self.seed}/{self.split}/{index}"):
            return self.conditional_builders[key].build(list(annotations))

    @cached_property
    def conditional_builders(self) -> dict[str, ObjectsCenterPointsConditionalBuilder]:
        """What makes tokens of annotations, by the item's key."""
        return {
            key: builder(
                no_object_classes=self.no_classes,
                no_max_objects=self.max_objects,
                no_tokens=self.no_tokens,
                encode_crop=False,
                use_group_parameter=False,
                use_additional_parameters=False,
            )
            for key, builder in BUILDERS.items()
        }

    @property
    def no_classes(self) -> int:
        """Number of classes of objects in layouts."""
        return len(self.world.objects)

    def get_textual_label_for_category_no(self, category_no: int) -> str:
        """Name of a class of objects by its number."""
        return self.world.objects[category_no]


class ScenesTrain(Scenes):
    """Scenes for training; `options` are those of Scenes."""

    def __init__(self, size: int = 32, length: int = 4096, keys: Sequence[str] | None = None, **options) -> None:
        super().__init__(size, length, keys, split="train", **options)


class ScenesValidation(Scenes):
    """Other scenes, of the same kinds."""

    def __init__(self, size: int = 32, length: int = 256, keys: Sequence[str] | None = None, **options) -> None:
        super().__init__(size, length, keys, split="validation", **options)


@contextmanager
def _python_random(seed: str) -> Iterator[None]:
    """Python's random numbers from `seed` on, which go on after it as if nothing had been drawn."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
