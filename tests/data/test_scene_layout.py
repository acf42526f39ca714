"""Layouts that people write: what they mean, and what is said of mistakes in them."""

import json

import pytest
from tiny_scenes import PARAMETERS, write_coco

from taming.data.annotated_objects_coco import AnnotatedObjectsCoco
from taming.data.scene_layout import SceneLayout
from taming.data.scenes import ScenesValidation

BOX = {"class": "ball", "box": [0.125, 0.25, 0.25, 0.5]}
CENTER = {"class": 3, "center": [0.5, 0]}


def parse(*objects):
    return SceneLayout.parse({"objects": list(objects)}, "file.json")


@pytest.fixture(scope="module")
def scenes():
    return ScenesValidation(16, 1)


@pytest.fixture
def coco(tmp_path):
    return AnnotatedObjectsCoco(**PARAMETERS | {"data_path": write_coco(tmp_path)})


def test_names_numbers_boxes_and_centres(scenes):
    ball, tree = parse(BOX, CENTER).annotations(scenes, "objects_center_points")
    assert (ball.category_no, ball.bbox, ball.area) == (0, (0.125, 0.25, 0.25, 0.5), 0.125)
    assert (tree.category_no, tree.category_id) == (3, "tree")
    builder = scenes.conditional_builders["objects_center_points"]
    objects, _ = builder.inverse_build(builder.build([ball, tree]))
    places = dict(objects)
    assert places[0] == pytest.approx((0.25, 0.5), abs=0.5 / 15) and places[3] == pytest.approx((0.5, 0), abs=0.5 / 15)


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (0.5, 1)])
def test_a_centre_at_the_border_is_kept(scenes, place):
    annotations = parse({"class": "car", "center": list(place)}).annotations(scenes, "objects_center_points")
    builder = scenes.conditional_builders["objects_center_points"]
    ((_, found),), _ = builder.inverse_build(builder.build(annotations))
    assert found == pytest.approx(place, abs=0.5 / 15)


def test_a_box_becomes_the_tokens_of_its_corners(scenes):
    builder = scenes.conditional_builders["objects_bbox"]
    whole = parse({"class": "House", "box": [0, 0, 1, 1]}).annotations(scenes, "objects_bbox")
    assert builder.inverse_build(builder.build(whole))[0] == [(2, (0.0, 0.0, 1.0, 1.0))]


def test_sides_that_only_rounding_puts_outside(scenes):
    box = [0.3333334, 0.1, 0.6666667, 0.9]
    (annotation,) = parse({"class": "car", "box": box}).annotations(scenes, "objects_bbox")
    assert sum(box[::2]) > 1 and annotation.bbox == tuple(box)


def test_flags_of_data_that_tell_them(coco):
    box = [0, 0, 1, 1]
    person = {"class": "Person", "box": box, "group": True, "occluded": False}
    (annotation,) = parse(person).annotations(coco, "objects_bbox")
    assert annotation.is_group_of is True
    assert coco.conditional_builders["objects_bbox"].object_representation(annotation) == coco.no_classes
    with pytest.raises(ValueError, match=r"objects\[0\]: occluded is nothing that the layouts of this data set tell"):
        parse(person | {"occluded": True}).annotations(coco, "objects_bbox")


def test_reading_a_file(tmp_path):
    path = tmp_path / "layout.json"
    path.write_text(json.dumps({"objects": [BOX, CENTER]}))
    assert SceneLayout.read(path).objects == parse(BOX, CENTER).objects
    assert SceneLayout.read(path).digest == parse(BOX, CENTER).digest != parse(CENTER, BOX).digest
    with pytest.raises(FileNotFoundError, match=r'other\.json; write one such as \{"objects": \[\{"class"'):
        SceneLayout.read(tmp_path / "other.json")
    path.write_text('{"objects": [')
    with pytest.raises(ValueError, match=r"layout\.json is not valid JSON: .* line 1"):
        SceneLayout.read(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"layout\.json holds no JSON object but a list"):
        SceneLayout.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"objcts": []}, r"file\.json: unknown key 'objcts'; did you mean objects\?"),
        ({}, "expected a list of at least one object as objects"),
        ({"objects": []}, "expected a list of at least one object as objects"),
        ({"objects": ["ball"]}, r"objects\[0\]: expected an object with class and box, not 'ball'"),
        ({"objects": [BOX, BOX | {"bbox": 1}]}, r"objects\[1\]: unknown key 'bbox'; did you mean box\?"),
        ({"objects": [{"box": [0, 0, 1, 1]}]}, "class is None, expected the name or the number"),
        ({"objects": [BOX | {"class": True}]}, "class is True"),
        ({"objects": [{"class": 1}]}, r"give it either a box, .* or a center, \[x, y\]"),
        ({"objects": [BOX | {"center": [0, 0]}]}, "give it either a box"),
        ({"objects": [BOX | {"box": [0, 0, 1]}]}, r"box is \[0, 0, 1\], expected 4 numbers"),
        ({"objects": [BOX | {"box": [0, 0, True, 1]}]}, "expected 4 numbers"),
        ({"objects": [{"class": 1, "center": "middle"}]}, "center is 'middle', expected 2 numbers"),
        ({"objects": [BOX | {"box": [10, 20, 100, 50]}]}, "expected shares of the image, 0 to 1; divide pixels"),
        ({"objects": [{"class": 1, "center": [float("nan"), 0]}]}, "expected shares of the image"),
        ({"objects": [BOX | {"box": [0.5, 0.5, 0.9, 0.9]}]}, r"box .* is not inside the image: it is left, top, width"),
        ({"objects": [BOX | {"box": [0.5, 0.5, 0, 0.1]}]}, "is not inside the image"),
        ({"objects": [BOX | {"group": 1}]}, "group is 1, expected true or false"),
    ],
)
def test_mistakes_in_a_file(content, message):
    with pytest.raises(ValueError, match=message):
        SceneLayout.parse(content, "file.json")


@pytest.mark.parametrize(
    ("objects", "key", "message"),
    [
        ([BOX | {"class": "bal"}], "objects_bbox", r"objects\[0\]: class 'bal' is none .*; did you mean ball\?"),
        ([BOX, BOX | {"class": 4}], "objects_bbox", r"objects\[1\]: class 4 is none of the data set's, 0 to 3"),
        ([BOX | {"class": -1}], "objects_bbox", "class -1 is none"),
        ([CENTER], "objects_bbox", r"objects\[0\]: has a center only, but this model reads boxes"),
        ([BOX] * 4, "objects_bbox", r"file\.json: has 4 objects, but the model reads 3 at most"),
    ],
)
def test_layouts_that_the_data_cannot_hold(scenes, objects, key, message):
    with pytest.raises(ValueError, match=message):
        parse(*objects).annotations(scenes, key)
