"""COCO and Open Images in the small: laid out like the real ones, of images whose pixels tell where they are."""

import csv
import json

import numpy as np
from paired_figures import write

SIZES = {7: (64, 48), 3: (48, 64), 12: (64, 64), 5: (64, 48)}
"""Images of COCO: id -> (width, height), each at most 256."""

THINGS = [(1, "person", "person"), (2, "vehicle", "bicycle"), (17, "animal", "cat")]
STUFF = [(100, "raw-material", "cardboard"), (92, "textile", "banner"), (183, "other", "other")]
BOXES = {
    "instances": [(7, 17, (8, 12, 16, 24), 1), (3, 1, (0, 0, 24, 64), 0), (7, 1, (32, 0, 32, 48), 0)],
    "stuff": [
        (12, 92, (0, 0, 64, 32), 0),
        (3, 100, (12, 32, 36, 32), 0),
        (7, 183, (0, 0, 64, 48), 0),
        (12, 100, (0, 32, 64, 32), 0),
        (5, 92, (0, 0, 64, 48), 0),
    ],
}
"""(image, category, box in pixels, iscrowd); images 7, 3 and 12 have two objects of a named category, image 5 one."""

PARAMETERS = {
    "split": "train",
    "keys": ["image", "objects_bbox"],
    "target_image_size": 48,
    "min_object_area": 0.0,
    "min_objects_per_image": 2,
    "max_objects_per_image": 3,
    "crop_method": "center",
    "random_flip": False,
    "no_tokens": 256,
    "use_group_parameter": True,
    "encode_crop": True,
}


def places(width, height):
    """Image (height, width, 3) whose red tells the column, and green the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def coco_annotations():
    """The content of both files, `instances` and `stuff`."""
    images = [
        {"id": id_, "file_name": f"{id_:012}.jpg", "width": width, "height": height}
        for id_, (width, height) in SIZES.items()
    ]
    images[0] |= {"license": 4, "coco_url": "http://example.org/7.jpg", "date_captured": "2013-11-14"}
    contents = {}
    for kind, categories in (("instances", THINGS), ("stuff", STUFF)):
        contents[kind] = {
            "images": images,
            "categories": [{"id": id_, "supercategory": group, "name": name} for id_, group, name in categories],
            "annotations": [
                {"id": 100 + i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
                | {"segmentation": [[0, 0, 1, 1]], "area": 1.0}
                for i, (image, category, box, crowd) in enumerate(BOXES[kind])
            ],
        }
    return contents


def write_coco(folder, contents=None):
    """Training and validation split, the same; the folder's path."""
    for part in ("train2017", "val2017"):
        for id_, size in SIZES.items():
            write(folder / part / f"{id_:012}.jpg", places(*size))
        (folder / "annotations").mkdir(exist_ok=True)
        for kind, content in (contents or coco_annotations()).items():
            (folder / "annotations" / f"{kind}_{part}.json").write_text(json.dumps(content))
    return str(folder)


COLUMNS = (
    "ImageID Source LabelName Confidence XMin XMax YMin YMax IsOccluded IsTruncated IsGroupOf IsDepiction IsInside"
)
CLASSES = [
    ("/m/01g317", "Person"),
    ("/m/04yx4", "Man"),
    ("/m/01s55n", "Suitcase"),
    ("/m/07j7r", "Tree"),
    ("/m/01yrx", "Cat"),
]
ROWS = [
    ("b" * 16, "xclick", "/m/04yx4", 1, 0.1, 0.3, 0.2, 0.6, 0, 1, 0, 0, 0),
    ("b" * 16, "activemil", "/m/01s55n", 0.5, 0.0, 0.5, 0.5, 1.0, -1, -1, -1, -1, -1),
    ("b" * 16, "xclick", "/m/0k4j", 1, 0.0, 0.5, 0.5, 1.0, 0, 0, 0, 0, 0),
    ("a1", "xclick", "/m/07j7r", 1, 0.0, 1.0, 0.0, 0.5, 1, 0, 1, 0, 0),
    ("a1", "xclick", "/m/01g317", 1, 0.0, 0.1, 0.0, 0.1, 0, 0, 0, 1, 1),
]
"""Boxes of two images, one of a class that is not listed, one of a hundredth of the image."""


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def write_open_images(folder, rows=ROWS, classes=CLASSES, columns=COLUMNS):
    """Training split; the folder's path."""
    for image in ("b" * 16, "a1".zfill(16)):
        write(folder / "train" / f"{image}.jpg", places(64, 48))
    write_csv(folder / "class-descriptions-boxable.csv", classes)
    write_csv(folder / "train-images-boxable.csv", [("image_name", "image_url"), ("0.jpg", "")])
    write_csv(folder / "oidv6-train-annotations-bbox.csv", [columns.split(), *rows])
    return str(folder)
