"""Scenes of COCO 2017: things and stuff with boxes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from taming.data.annotated_objects_dataset import SECONDS_WITHOUT_BAR, AnnotatedObjectsDataset
from taming.data.coco_json import read_json, records
from taming.data.helper_types import Annotation, Category, ImageDescription

COCO_PATH_STRUCTURE = {
    "train": {
        "top_level": "",
        "instances_annotations": "annotations/instances_train2017.json",
        "stuff_annotations": "annotations/stuff_train2017.json",
        "files": "train2017",
    },
    "validation": {
        "top_level": "",
        "instances_annotations": "annotations/instances_val2017.json",
        "stuff_annotations": "annotations/stuff_val2017.json",
        "files": "val2017",
    },
}
UNNAMED_STUFF = "other"
UNREAD = ("segmentation",)
"""Outlines are most of the files, and boxes are all that is needed."""


class AnnotatedObjectsCoco(AnnotatedObjectsDataset):
    """Images with COCO's things (80 categories), stuff (91), or both; see `AnnotatedObjectsDataset`.

    Both files of annotations must be there; images are those that the file of things lists, and areas those of the
    boxes. An item has the fields of `ImageDescription`. Raises ValueError for files that lack what COCO's have, or
    annotate an image that is not listed.
    """

    source = (
        "get train2017.zip and val2017.zip from http://images.cocodataset.org/zips, annotations_trainval2017.zip and "
        "stuff_annotations_trainval2017.zip from http://images.cocodataset.org/annotations"
    )

    def __init__(self, use_things: bool = True, use_stuff: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not (use_things or use_stuff):
            raise ValueError(f"{self.name}: use_things and use_stuff are both off; a scene needs one of them")
        self.use_things = use_things
        self.use_stuff = use_stuff
        files = {"instances_annotations": self._read("instances_annotations")}
        with self._naming("instances_annotations"):
            self.image_descriptions = load_image_descriptions(files["instances_annotations"])
        if not use_things:
            files.clear()
        if use_stuff:
            files["stuff_annotations"] = self._read("stuff_annotations")
        self._number_categories(self._categories(files))
        self._select_images(self._annotations(files))

    def _read(self, kind: str) -> dict[str, Any]:
        return read_json(self.paths[kind], self.name, self.source, unread=UNREAD)

    @contextmanager
    def _naming(self, kind: str) -> Iterator[None]:
        """Errors about the content of a file name it."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}: {self.paths[kind]}: {error}") from None

    def _categories(self, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Category]:
        categories: dict[str, Category] = {}
        for kind, content in files.items():
            with self._naming(kind):
                categories |= load_categories(content)
        return {id_: category for id_, category in categories.items() if category.name != UNNAMED_STUFF}

    def _annotations(self, files: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Annotation]]:
        """Those of all files, by image in the order in which images appear."""
        annotations: dict[str, list[Annotation]] = {}
        for kind, content in files.items():
            with self._naming(kind):
                found = load_annotations(content, self.image_descriptions, self.get_category_number, self.split)
            for image_id, objects in found.items():
                annotations.setdefault(image_id, []).extend(objects)
        return annotations

    def get_path_structure(self) -> Mapping[str, str]:
        if self.split not in COCO_PATH_STRUCTURE:
            raise ValueError(f"{self.name}: no split {self.split!r}; choose from {', '.join(COCO_PATH_STRUCTURE)}")
        return COCO_PATH_STRUCTURE[self.split]

    def get_image_path(self, image_id: str) -> Path:
        return self.paths["files"] / self.image_descriptions[image_id].file_name

    def get_image_description(self, image_id: str) -> Mapping[str, Any]:
        return self.image_descriptions[image_id]._asdict()


def load_image_descriptions(description_json: Mapping[str, Any]) -> dict[str, ImageDescription]:
    """The images of a COCO file by id, as a string; of several with the same id the last."""
    optional = ("license", "coco_url", "date_captured", "flickr_url")
    return {
        str(image["id"]): ImageDescription(
            id=image["id"],
            file_name=image["file_name"],
            original_size=(image["width"], image["height"]),
            **{field: image.get(field) for field in optional},
        )
        for image in records(description_json, "images", ("id", "file_name", "width", "height"))
    }


def load_categories(category_json: Mapping[str, Any]) -> dict[str, Category]:
    """The categories of a COCO file by id, as a string."""
    return {
        str(category["id"]): Category(
            id=str(category["id"]), super_category=category["supercategory"], name=category["name"]
        )
        for category in records(category_json, "categories", ("id", "supercategory", "name"))
    }


def load_annotations(
    annotations_json: Mapping[str, Any],
    image_descriptions: Mapping[str, ImageDescription],
    category_no_for_id: Callable[[str], int],
    split: str,
) -> dict[str, list[Annotation]]:
    """The objects of a COCO file by their image's id, boxes and areas relative to the image.

    `category_no_for_id` raises KeyError for a category that is not used; its objects are left out. Raises ValueError
    for an object in an unknown image.
    """
    annotations: dict[str, list[Annotation]] = {}
    found = records(annotations_json, "annotations", ("id", "image_id", "category_id", "bbox", "iscrowd"))
    for record in tqdm(found, desc=f"{split} annotations", unit=" boxes", delay=SECONDS_WITHOUT_BAR):
        try:
            category_no = category_no_for_id(str(record["category_id"]))
        except KeyError:
            continue
        image_id = str(record["image_id"])
        if image_id not in image_descriptions:
            raise ValueError(f"annotation {record['id']} belongs to image {image_id}, which is not among the images")
        annotation = _annotation(record, category_no, image_descriptions[image_id].original_size)
        annotations.setdefault(image_id, []).append(annotation)
    return annotations


def _annotation(record: Mapping[str, Any], category_no: int, image_size: tuple[int, int]) -> Annotation:
    image_width, image_height = image_size
    x0, y0, width, height = record["bbox"]
    bbox = x0 / image_width, y0 / image_height, width / image_width, height / image_height
    return Annotation(
        area=bbox[2] * bbox[3],
        image_id=record["image_id"],
        bbox=bbox,
        category_no=category_no,
        category_id=str(record["category_id"]),
        id=record["id"],
        # A number, which layouts do not count as a flag: the published models never saw a group.
        is_group_of=record["iscrowd"],
    )
