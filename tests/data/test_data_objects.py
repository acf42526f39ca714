"""What the datasets of scenes share: transforms whose boxes are true, items by key, filters, errors."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image
from tiny_scenes import PARAMETERS, SIZES, places, write_coco

from taming.config import instantiate_from_config
from taming.data.annotated_objects_coco import AnnotatedObjectsCoco
from taming.data.annotated_objects_dataset import AnnotatedObjectsDataset
from taming.data.helper_types import Annotation, Category
from taming.data.utils import custom_collate

TOKENS = ["objects_bbox", "objects_center_points"]
DESCRIPTION = [
    *("id", "file_name", "original_size", "url", "license", "coco_url", "date_captured", "flickr_url", "flickr_id"),
    "coco_id",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


class InOrder(random.Random):
    """Leaves objects in their order."""

    def shuffle(self, x):
        pass


def scenes(folder, **changes):
    return AnnotatedObjectsCoco(data_path=folder, **PARAMETERS | changes)


def shown(image):
    """First and last column and row of an image of `places` that an image (s, s, 3) in [-1, 1] shows."""
    pixels = (np.asarray(image, dtype=np.float64) + 1) * 127.5
    return [(pixels[0, 0, i], pixels[-1, -1, i]) for i in (0, 1)]


@pytest.mark.parametrize("crop_method", ["center", "random-1d", "random-2d"])
@pytest.mark.parametrize("random_flip", [False, True])
@pytest.mark.parametrize("target_image_size", [48, 32, 80])
def test_box_of_the_crop_is_where_its_pixels_come_from(folder, crop_method, random_flip, target_image_size):
    keys = ["image", "crop_bbox", "flipped", "original_size"]
    data = scenes(
        folder, keys=keys, crop_method=crop_method, random_flip=random_flip, target_image_size=target_image_size
    )
    data = pickle.loads(pickle.dumps(data))
    random.seed(0)
    torch.manual_seed(0)
    flips, boxes = set(), set()
    for _ in range(12):
        item = data[0]  # 64 x 48
        image = item["image"]
        assert (image.shape, image.dtype) == ((target_image_size, target_image_size, 3), torch.float32)
        x0, y0, width, height = item["crop_bbox"]
        (left, right), (top, bottom) = shown(image)
        if item["flipped"]:
            left, right = right, left
        pixel = 1 + 48 / target_image_size  # of the file and of the result
        assert (left, right) == pytest.approx((x0 * 64, (x0 + width) * 64), abs=pixel)
        assert (top, bottom) == pytest.approx((y0 * 48, (y0 + height) * 48), abs=pixel)
        flips.add(item["flipped"])
        boxes.add(item["crop_bbox"])
    assert flips == ({True, False} if random_flip else {None})
    # Of 64 x 48 pixels there is one square of 48, and of 80 after rescaling as many as it has columns to spare.
    assert (len(boxes) > 1) == (crop_method != "center")


def test_without_a_crop_both_sides_are_scaled(folder):
    item = scenes(folder, keys=["image", "crop_bbox", "flipped"], crop_method="none", target_image_size=24)[0]
    assert (item["crop_bbox"], item["flipped"], item["image"].shape) == (None, None, (24, 24, 3))
    (left, right), (top, bottom) = shown(item["image"])
    assert (left, right, top, bottom) == pytest.approx((0, 63, 0, 47), abs=2)


@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_is_bilinear(folder, antialias):
    """Rounded to grey levels; the default, without antialiasing, is what the published models saw."""
    options = {"antialias": True} if antialias else {}
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    data = scenes(folder, crop_method="none", target_image_size=16, **options)
    _, _, image = data.image_transform(torch.from_numpy(noise).permute(2, 0, 1))
    whole = torch.from_numpy(noise).permute(2, 0, 1)[None].float()
    expected = F.interpolate(whole, size=(16, 16), mode="bilinear", align_corners=False, antialias=antialias)[0]
    assert torch.equal(image, expected.round() / 127.5 - 1)


def test_items_hold_the_keys_in_their_order(folder):
    keys = ["objects_center_points", "image_path", "annotations", "image", "file_name", "objects_bbox", "id"]
    data = scenes(folder, keys=keys)
    item = data[1]
    assert list(item) == keys
    assert (item["id"], item["file_name"]) == (3, "000000000003.jpg")
    assert item["image_path"] == str(Path(folder) / "train2017" / "000000000003.jpg")
    for key, length in (("objects_bbox", 3 * 3 + 2), ("objects_center_points", 3 * 2 + 2)):
        assert (item[key].shape, item[key].dtype) == ((length,), torch.int64)


def test_without_keys_description_and_annotations(folder):
    item = scenes(folder, keys=[], crop_method=None)[0]
    assert list(item) == [*DESCRIPTION, "annotations"]
    assert item["original_size"] == (64, 48)
    assert all(isinstance(annotation, Annotation) for annotation in item["annotations"])


def test_layouts_without_the_image_are_of_the_whole_scene(folder):
    data = scenes(folder, keys=["objects_bbox"], crop_method=None)
    random.seed(0)
    tokens = data[0]["objects_bbox"]
    random.seed(0)
    builder = data.conditional_builders["objects_bbox"]
    assert torch.equal(tokens, builder.build(data.get_annotation("7"), None, False))


def test_layouts_follow_crop_and_flip(folder):
    keys = ["image", "crop_bbox", "flipped", "annotations", *TOKENS]
    data = scenes(folder, keys=keys, crop_method="random-2d", random_flip=True, target_image_size=16)
    random.seed(0)
    torch.manual_seed(0)
    for item in (data[0] for _ in range(8)):
        for key, builder in data.conditional_builders.items():
            objects = item["annotations"]
            orders = [
                builder.build(order, item["crop_bbox"], item["flipped"], rng=InOrder())
                for order in (objects, objects[::-1])
            ]
            assert any(torch.equal(item[key], tokens) for tokens in orders)


def test_unknown_key_is_named_with_those_that_there_are(folder):
    with pytest.raises(KeyError) as error:
        scenes(folder, keys=["image", "boxes"])[0]
    for part in ("AnnotatedObjectsCoco: no 'boxes'", "crop_bbox", "objects_bbox", "objects_center_points", "file_name"):
        assert part in str(error.value)
    with pytest.raises(KeyError, match=r"no 'crop_bbox' in an item; keys may be .*image"):
        scenes(folder, keys=["crop_bbox"])[0]


@pytest.mark.parametrize("crop_method", [None, "random", "centre"])
def test_unknown_crop(folder, crop_method):
    with pytest.raises(
        ValueError, match=rf"Coco: unknown crop_method {crop_method!r}; choose from none, center, random"
    ):
        scenes(folder, crop_method=crop_method)


def test_stored_annotations_stay(folder):
    data = scenes(folder, keys=["annotations", "objects_bbox"])
    before = {id_: list(objects) for id_, objects in data.annotations.items()}
    orders = set()
    for _ in range(100):
        item = data[0]
        assert item["annotations"] == before["7"]
        item["annotations"].clear()
        orders.add(tuple(item["objects_bbox"].tolist()))
    assert data.annotations == before
    assert len(orders) == 2


def test_from_a_config(folder):
    config = OmegaConf.create(
        {"target": "taming.data.annotated_objects_coco.AnnotatedObjectsCoco"}
        | {"params": PARAMETERS | {"data_path": folder, "no_object_classes": 12}}
    )
    data = instantiate_from_config(config)
    assert (data.no_classes, len(data.categories), data.keys) == (12, 5, ["image", "objects_bbox"])
    assert data.conditional_builders["objects_bbox"].no_object_classes == 12
    batch = custom_collate([data[0], data[1]])
    assert (batch["image"].shape, batch["objects_bbox"].shape) == ((2, 48, 48, 3), (2, 11))


def test_batches_of_what_is_not_there(folder):
    """Annotations stay lists; a crop or flip that was not asked for cannot be batched, which names the key (QD3.3)."""
    data = scenes(folder, keys=["image", "annotations", "flipped"])
    with pytest.raises(TypeError, match=r"batch\['flipped'\]"):
        custom_collate([data[0], data[1]])
    batch = custom_collate([{"annotations": data[i]["annotations"]} for i in range(2)])
    assert batch["annotations"] == [data.get_annotation("7"), data.get_annotation("3")]


def test_missing_files_are_named(tmp_path, folder):
    with pytest.raises(FileNotFoundError) as error:
        scenes(tmp_path)
    for part in (
        "taming.data.annotated_objects_coco.AnnotatedObjectsCoco: ",
        "instances_train2017.json",
        "cocodataset",
    ):
        assert part in str(error.value)
    write_coco(tmp_path)
    (tmp_path / "train2017" / "000000000007.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"Coco: file not found: .*000000000007\.jpg; it is annotated in "):
        scenes(tmp_path)[0]


def test_images_with_too_few_and_too_many_objects():
    def objects(*areas):
        return [Annotation(area, image_id="i", bbox=(0, 0, 1, 1), category_no=0, category_id="c") for area in areas]

    stored = {
        "z": objects(0.5, 0.1),
        "few": objects(0.5, 0.09),
        "many": objects(1, 1, 1, 1),
        "a": objects(0.2, 0.3, 0.4),
    }
    kept = AnnotatedObjectsDataset.filter_object_number(stored, 0.09, 2, 3)
    assert list(kept.items()) == [("z", stored["z"]), ("a", stored["a"])]
    kept = AnnotatedObjectsDataset.filter_object_number(stored, 0.1, 1, 9)
    assert {id_: len(found) for id_, found in kept.items()} == {"z": 1, "few": 1, "many": 4, "a": 3}


def test_no_image_left(folder):
    with pytest.raises(
        ValueError, match=r"Coco: of 4 annotated images in .* none has 3 to 3 objects of more than 0\.2"
    ):
        scenes(folder, min_objects_per_image=3, min_object_area=0.2)


ALLOWED = [("person", 5), ("unicorn", 1), ("cat", 2), ("cat", 2), ("banner", 0)]
MAPPING = {"92": "1"}


def test_chosen_and_merged_categories(folder, caplog):
    here = f"{__name__}."
    data = scenes(
        folder,
        category_allow_list_target=here + "ALLOWED",
        category_mapping_target=here + "MAPPING",
        min_objects_per_image=1,
    )
    assert data.category_allow_list == {"person", "unicorn", "cat", "banner"}
    assert data.category_mapping == MAPPING
    assert data.category_ids == ["1", "17"]  # the banner's objects count as another category's
    assert f"1 names of {here}ALLOWED are no categories: unicorn" in caplog.text


def test_numbers_follow_the_ids_as_strings_but_for_the_suitcase():
    data = AnnotatedObjectsDataset.__new__(AnnotatedObjectsDataset)
    ids = ["/m/01s55n", "2", "10", "/m/0zvk5", "1"]
    data.categories = {id_: Category(id_, None, f"name of {id_}") for id_ in ids}
    data.setup_category_id_and_number()
    assert data.category_ids == ["/m/0zvk5", "1", "10", "2", "/m/01s55n"]
    for number, id_ in enumerate(data.category_ids):
        assert (data.get_category_number(id_), data.get_category_id(number)) == (number, id_)
        assert data.get_textual_label_for_category_no(number) == f"name of {id_}"
        assert data.get_textual_label_for_category_id(id_) == f"name of {id_}"


def test_pixels_of_the_file_are_those_of_the_item(folder):
    """`places` is stored without loss, so that the tests above may compare pixels."""
    stored = np.asarray(Image.open(Path(folder) / "train2017" / "000000000012.jpg"))
    np.testing.assert_array_equal(stored, places(*SIZES[12]))
