"""COCO's scenes: what is read of its files, and the published figures of the real ones."""

import json

import pytest
from parity import cases, names
from scene_figures import check_dataset
from shared_data import shared_data
from tiny_scenes import PARAMETERS, coco_annotations, write_coco

from taming.data.annotated_objects_coco import COCO_PATH_STRUCTURE, AnnotatedObjectsCoco, load_annotations
from taming.data.helper_types import Annotation

CASES = cases("data_objects")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


def scenes(folder, **changes):
    return AnnotatedObjectsCoco(data_path=folder, **PARAMETERS | changes)


def test_things_then_stuff_by_image(folder):
    data = scenes(folder)
    # Ids as strings in their order, without `other`: 1, 100, 17, 2, 92.
    assert [data.get_textual_label_for_category_no(i) for i in range(5)] == [
        *("person", "cardboard", "cat", "bicycle", "banner")
    ]
    assert data.image_ids == ["7", "3", "12"]  # as they appear; image 5 has one object only
    assert list(data.annotations) == data.image_ids
    assert set(data.image_descriptions) == {"7", "3", "12"}
    first = data.get_annotation("7")[0]
    assert first == Annotation(
        area=0.125,
        image_id=7,
        bbox=(0.125, 0.25, 0.25, 0.5),
        category_no=2,
        category_id="17",
        id=100,
        is_group_of=1,
    )
    assert [annotation.category_id for annotation in data.get_annotation("3")] == ["1", "100"]


def test_crowds_are_numbers_which_layouts_do_not_count(folder):
    """QD13.1: published models never saw a group."""
    data = scenes(folder)
    (crowd,) = [found for found in data.get_annotation("7") if found.is_group_of]
    assert data.conditional_builders["objects_bbox"].object_representation(crowd) == 2


def test_fields_of_the_description(folder):
    data = scenes(folder, keys=[], min_objects_per_image=1)
    items = {item["id"]: item for item in (data[i] for i in range(len(data)))}
    assert list(items) == [7, 3, 12, 5]
    assert {key: value for key, value in items[7].items() if key != "annotations" and value is not None} == {
        "id": 7,
        "file_name": "000000000007.jpg",
        "original_size": (64, 48),
        "license": 4,
        "coco_url": "http://example.org/7.jpg",
        "date_captured": "2013-11-14",
    }
    assert items[3]["coco_url"] is None


@pytest.mark.parametrize(
    ("kinds", "names", "images"),
    [
        ({"use_stuff": False}, ["person", "cat", "bicycle"], ["7", "3"]),
        ({"use_things": False}, ["cardboard", "banner"], ["12", "3", "5"]),
    ],
)
def test_things_or_stuff_alone(folder, kinds, names, images):
    data = scenes(folder, **kinds, min_objects_per_image=1)
    assert [data.get_textual_label_for_category_no(i) for i in range(data.no_classes)] == names
    assert data.image_ids == images


def test_neither_things_nor_stuff(folder):
    with pytest.raises(ValueError, match="use_things and use_stuff are both off"):
        scenes(folder, use_things=False, use_stuff=False)


def test_splits(folder):
    assert cases("data_objects")["path-structures"]["outputs"]["coco"] == COCO_PATH_STRUCTURE
    assert scenes(folder, split="validation").paths["files"].name == "val2017"
    with pytest.raises(ValueError, match=r"Coco: no split 'test'; choose from train, validation"):
        scenes(folder, split="test")


def without(record, field):
    return {key: value for key, value in record.items() if key != field}


@pytest.mark.parametrize(
    ("kind", "section", "field"),
    [
        ("instances", "images", "width"),
        ("instances", "categories", "name"),
        ("instances", "annotations", "bbox"),
        ("stuff", "categories", "id"),
        ("stuff", "annotations", "iscrowd"),
    ],
)
def test_files_that_lack_a_field(tmp_path, kind, section, field):
    contents = coco_annotations()
    contents[kind][section] = [*contents[kind][section][:-1], without(contents[kind][section][-1], field)]
    write_coco(tmp_path, contents)
    last = len(contents[kind][section]) - 1
    with pytest.raises(ValueError) as error:
        scenes(tmp_path)
    for part in ("AnnotatedObjectsCoco: ", f"{kind}_train2017.json: {section}[{last}] has no '{field}'"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_file_that_lacks_a_section_or_is_damaged(tmp_path):
    contents = coco_annotations()
    del contents["stuff"]["annotations"]
    write_coco(tmp_path, contents)
    with pytest.raises(ValueError, match=r"stuff_train2017\.json: no list 'annotations'"):
        scenes(tmp_path)
    (tmp_path / "annotations" / "stuff_train2017.json").write_text(json.dumps(contents)[:-3])
    with pytest.raises(ValueError, match=r"stuff_train2017\.json is not valid JSON"):
        scenes(tmp_path)


def test_object_in_an_unknown_image(tmp_path):
    contents = coco_annotations()
    contents["instances"]["annotations"][1]["image_id"] = 99
    write_coco(tmp_path, contents)
    with pytest.raises(
        ValueError, match=r"instances_train2017\.json: annotation 101 belongs to image 99, which is not"
    ):
        scenes(tmp_path)


def test_objects_of_unused_categories_are_left_out():
    """Even where their image is unknown."""
    content = coco_annotations()["stuff"]
    found = load_annotations(content, {}, {}.__getitem__, "train")
    assert found == {}


@pytest.mark.parametrize("name", names("data_objects", "dataset/coco/"))
def test_published_scenes(name, monkeypatch):
    monkeypatch.chdir(shared_data().parent)
    case = CASES[name]
    check_dataset(case, AnnotatedObjectsCoco(**case["kwargs"]), monkeypatch)
