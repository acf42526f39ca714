"""Comparing datasets of scenes with the published ones: which images and categories, what examples hold."""

import hashlib
import random

import torch
from parity import agree


def check_dataset(case, data, monkeypatch):
    """Everything that a case of the published figures tells."""
    stored = case["outputs"]
    counts = [len(objects) for objects in data.annotations.values()]
    numbered = [[number, id_, data.categories[id_].name] for number, id_ in enumerate(data.category_ids)]
    got = {
        "len": len(data),
        "categories": len(data.categories),
        "no_classes": data.no_classes,
        "first_categories (no, id, name)": numbered[:6],
        "last_categories": numbered[-4:],
        "image_ids_first_ten": data.image_ids[:10],
        "annotations_in_all": sum(counts),
        "objects_per_image_min_max": [min(counts), max(counts)],
        "files": {name: str(path) for name, path in data.paths.items()},
    }
    agree(stored, got | {"...": "examples below"})
    listed = "\n".join(f"{id_} {name}" for _, id_, name in numbered)
    assert hashlib.sha256(listed.encode()).hexdigest() == stored["categories_sha256"]
    monkeypatch.setattr(random, "shuffle", lambda objects: None)
    for index, example in enumerate(stored["examples"]):
        check_example(example, data, index)


def check_example(stored, data, index):
    """Annotations, tokens, crop and image of the example, drawn with the seeds of the figures."""
    random.seed(100 + index)
    torch.manual_seed(100 + index)
    item = data[index]
    annotations = [
        {field: value for field, value in found._asdict().items() if value is not None} for found in item["annotations"]
    ]
    tokens = {key: item[key] for key in ("objects_bbox", "objects_center_points")}
    for key, found in tokens.items():
        assert found.tolist() == stored[key], key
    whole = data.conditional_builders["objects_bbox"].build(item["annotations"])
    assert whole.tolist() == stored["objects_bbox_full_crop_no_flip"]
    got = {"image_id": data.get_image_id(index), "annotations": annotations, "crop_bbox": item["crop_bbox"]}
    agree(stored, item | got | {"image": {"no antialias, rounded": item["image"], "...": "other resizing"}, "...": 1})
