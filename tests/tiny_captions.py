"""COCO with captions and segmentations, on a small scale."""

import json
from pathlib import Path

import numpy as np
from paired_figures import as_image, stripes, write

IDS = [4, 8, 15]
CAPTIONS = [(8, "one"), (4, "a cat"), (8, "two"), (8, "three")]
LABELS = [0, 41, 255]


def place():
    """Three images of 60 x 40 pixels in each split below the current folder; image 15 has no caption."""
    for part in ("train2017", "val2017"):
        for id_ in IDS:
            write(Path(f"data/coco/{part}/{id_:012}.jpg"), as_image(stripes(40, 60, LABELS)))
            write(Path(f"data/cocostuffthings/{part}/{id_:012}.png"), stripes(40, 60, LABELS))
            colours = np.stack([stripes(40, 60, LABELS)] * 3, axis=2)
            write(Path(f"data/coco/annotations/stuff_{part}_pixelmaps/{id_:012}.png"), colours)
        write_captions(f"captions_{part}.json", captions())


def captions():
    return {
        "images": [{"id": id_, "file_name": f"{id_:012}.jpg"} for id_ in IDS],
        "annotations": [{"image_id": id_, "caption": caption} for id_, caption in CAPTIONS],
    }


def write_captions(name, content):
    with open(f"data/coco/annotations/{name}", "w") as file:
        json.dump(content, file)
