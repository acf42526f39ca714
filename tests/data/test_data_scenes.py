"""taming.data.scenes and the renderer: shapes against a second way to find where rays hit, scenes against geometry."""

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taming.config import instantiate_from_config
from taming.data.rendering.camera import Camera
from taming.data.rendering.caster import alone, cast
from taming.data.rendering.classes import CLASSES, class_of
from taming.data.rendering.landscapes import LANDSCAPES, landscape
from taming.data.rendering.noise import noise
from taming.data.rendering.rooms import ROOMS, room
from taming.data.rendering.scene import Instance, Scene, Sky, Surface
from taming.data.rendering.shapes import SPANS, Solid, meet, normals, rod, rotation, solid
from taming.data.rendering.simple import GROUNDS, simple_scene
from taming.data.rendering.views import box_of, inverse_depth, render, view
from taming.data.scenes import KEYS, ScenesTrain, ScenesValidation
from taming.data.utils import custom_collate

INSIDE = {
    "sphere": lambda x, y, z: x * x + y * y + z * z <= 1,
    "cube": lambda x, y, z: np.maximum(np.maximum(abs(x), abs(y)), abs(z)) <= 1,
    "cylinder": lambda x, y, z: (x * x + z * z <= 1) & (abs(y) <= 1),
    "cone": lambda x, y, z: (np.hypot(x, z) <= (1 - y) / 2) & (abs(y) <= 1),
    "wedge": lambda x, y, z: (abs(x) <= (1 - y) / 2) & (abs(y) <= 1) & (abs(z) <= 1),
}


@pytest.mark.parametrize("shape", SPANS)
def test_rays_enter_a_shape_where_marching_along_them_enters_it(shape):
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(3, 400))
    origin = np.array([0.3, 0.2, -4.0])
    direction[2] = abs(direction[2]) * 6  # so that many hit
    t, hit = meet(shape, origin, direction)
    steps = np.linspace(0, 4, 8001)[:, None]
    marched = INSIDE[shape](*(o + steps * d for o, d in zip(origin, direction, strict=True)))
    assert hit.mean() > 0.1
    assert (marched.any(axis=0) == hit).mean() > 0.99  # a graze may fall between two steps
    both = hit & marched.any(axis=0)
    first = steps[marched.argmax(axis=0), 0]
    assert np.abs(first - t)[both].max() < 2e-3


@pytest.mark.parametrize("shape", SPANS)
def test_normals_point_towards_where_the_ray_comes_from(shape):
    rng = np.random.default_rng(1)
    origin = np.array([0.2, 1.5, -5.0])
    direction = rng.normal(size=(3, 300)) * 0.12 + np.array([[0], [-0.3], [1.0]])
    t, hit = meet(shape, origin, direction)
    points = (origin[:, None] + np.where(hit, t, 0) * direction).T[hit]
    outward = normals(shape, points)
    assert (np.einsum("nc,cn->n", outward, direction[:, hit]) < 1e-6).all()
    assert not INSIDE[shape](*(points + 1e-3 * outward).T).any()


def test_a_ray_from_inside_meets_nothing():
    for shape in SPANS:
        assert not meet(shape, np.array([0.0, -0.5, 0.0]), np.eye(3)[:, :, None])[1].any(), shape


def test_rods_reach_from_end_to_end():
    part = rod((1, 2, 3), (4, 6, 3), 0.5, (1, 1, 1))
    ends = [part.matrix @ (0, y, 0) + part.offset for y in (-1, 1)]
    np.testing.assert_allclose(ends, [(1, 2, 3), (4, 6, 3)])
    assert np.linalg.norm(part.matrix @ (1, 0, 0)) == pytest.approx(0.5)


@given(st.floats(-180, 180), st.floats(-180, 180), st.floats(-180, 180))
def test_rotations_keep_lengths_and_handedness(yaw, pitch, roll):
    turn = rotation(yaw, pitch, roll)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


def test_noise_is_smooth_and_within_its_range():
    x = np.linspace(-30, 30, 4001)
    values = noise(x, np.zeros_like(x), np.zeros_like(x))
    assert np.abs(values).max() <= 1
    assert values.std() > 0.1
    assert np.abs(np.diff(values)).max() < 0.6  # a cell has four steps


def ball_scene(*, x=0.0, size=64, radius=1.0, distance=6.0, more=()):
    """A white ball on green ground."""
    ball = solid("sphere", (x, radius, distance), (radius,) * 3, (1, 1, 1), owner=2)
    return Scene(
        Camera(size, size, 1.5, 0.5),
        (Instance("sky"), Instance("grass"), Instance("ball"), Instance("car")),
        Sky(0, (0.5, 0.7, 1.0), (0.2, 0.4, 0.9)),
        Surface(1, (0.1, 0.6, 0.1)),
        solids=(ball, *more),
        objects=frozenset({2, 3}),
    )


def test_maps_agree_with_geometry():
    scene = ball_scene()
    maps = view(scene)
    camera = scene.camera
    x, y = camera.rays()
    ground = maps.owners == 1
    np.testing.assert_allclose((1.5 + y[:, None] * maps.depth)[ground], 0, atol=1e-4)
    assert (maps.depth[maps.owners == 0] == 100).all()
    ball = maps.owners == 2
    points = np.stack(np.broadcast_arrays(x * maps.depth, 1.5 + y[:, None] * maps.depth, maps.depth))[:, ball]
    np.testing.assert_allclose(np.linalg.norm(points - np.array([[0], [1], [6]]), axis=0), 1, atol=1e-4)
    columns, rows = camera.project(points.T.astype(float))
    rows_seen, columns_seen = np.nonzero(ball)
    np.testing.assert_allclose(columns, columns_seen + 0.5, atol=1e-3)
    np.testing.assert_allclose(rows, rows_seen + 0.5, atol=1e-3)


def test_smoothing_changes_the_image_but_not_the_maps():
    rng = np.random.default_rng(3)
    scene = landscape(rng, "park", 48, 40)
    (rough, first), (smooth, second) = render(scene, 1), render(scene, 3)
    assert rough.shape == smooth.shape == (40, 48, 3)
    assert (rough != smooth).any()
    np.testing.assert_array_equal(first.owners, second.owners)
    np.testing.assert_array_equal(first.depth, second.depth)
    with pytest.raises(ValueError, match="odd"):
        render(scene, 2)


def test_windows_leave_nothing_out():
    """Casting every solid over the whole image finds the same."""
    scene = landscape(np.random.default_rng(5), "town", 40, 30)
    from taming.data.rendering import caster

    with pytest.MonkeyPatch.context() as patch:
        order = np.argsort([part.offset[2] for part in scene.solids], kind="stable")
        everything = [(int(number), np.array([0, 0, 40, 30])) for number in order]
        patch.setattr(caster, "_in_view", lambda camera, solids: everything)
        whole = cast(scene)
    np.testing.assert_array_equal(cast(scene).owners, whole.owners)


def test_what_is_hidden_or_cut_off_is_known():
    before = Solid("cube", np.diag([2.0, 2.0, 0.1]), np.array([0.9, 0.0, 4.0]), (1, 0, 0), owner=3)
    scene = ball_scene(more=(before,))
    seen = (view(scene).owners == 2).sum()
    assert alone(scene)[2].area == (view(ball_scene()).owners == 2).sum() > seen
    assert not alone(scene)[2].at_border
    assert alone(ball_scene(x=2.8))[2].at_border


@pytest.mark.parametrize("kind", [*LANDSCAPES, *ROOMS])
def test_rich_scenes_know_all_that_they_show(kind):
    scene = (room if kind in ROOMS else landscape)(np.random.default_rng(2), kind, 64, 48)
    image, maps = render(scene)
    assert image.dtype == np.uint8 and image.std() > 10
    assert all(class_of(instance.kind) in CLASSES for instance in scene.instances)
    assert len(np.unique(maps.owners)) >= 3
    assert any((maps.owners == number).any() for number in scene.objects)
    assert maps.depth.min() > 1 and maps.depth.max() <= 100
    assert scene.caption.startswith(("a ", "an "))


def test_inverse_depth_is_even_and_falls_with_distance():
    values = inverse_depth(np.array([1.0, 2.5, 6.0, 33.0, 100.0], np.float32))
    assert values.tolist() == [8000, 8000, 3334, 606, 200]
    assert values.dtype == np.float32


@given(st.integers(0, 6), st.integers(0, 6), st.integers(1, 6), st.integers(1, 6))
def test_box_of_a_rectangle_is_the_rectangle(left, top, width, height):
    mask = np.zeros((12, 12), bool)
    mask[top : top + height, left : left + width] = True
    assert box_of(mask) == (left, top, width, height)


@pytest.fixture(scope="module")
def scenes():
    return ScenesTrain(size=32, length=64)


def test_an_item_has_every_key_in_its_documented_form(scenes):
    item = scenes[5]
    assert list(item) == list(KEYS)
    assert item["image"].shape == (32, 32, 3) and item["image"].dtype == np.float32
    assert item["image"].min() >= -1 and item["image"].max() <= 1
    assert item["class_label"] == 1 and item["human_label"] == "desert"
    assert item["segmentation"].shape == (32, 32, 9) and item["segmentation"].dtype == np.float32
    np.testing.assert_array_equal(item["segmentation"].sum(axis=2), 1)
    assert item["depth"].dtype == np.float32 and (item["depth"].min(), item["depth"].max()) == (-1, 1)
    assert item["coord"].shape == (32, 32, 1) and item["coord"][1, 0, 0] == 32 / 1024
    assert item["objects_bbox"].dtype == item["objects_center_points"].dtype == torch.int64
    assert (len(item["objects_bbox"]), len(item["objects_center_points"])) == (9, 6)
    assert item["caption"].startswith("a desert with ")


def test_items_depend_on_the_index_only(scenes):
    expected = scenes[7]
    random.seed(99)
    state = random.getstate()
    again = ScenesTrain(size=32, length=8, keep=False)[7]
    assert random.getstate() == state  # the global random numbers are left alone
    for key in ("image", "segmentation", "depth", "objects_bbox", "objects_center_points"):
        np.testing.assert_array_equal(np.asarray(again[key]), np.asarray(expected[key]))
    assert again["caption"] == expected["caption"]
    other = ScenesTrain(size=32, length=8, seed=1)[7]
    assert (other["image"] != expected["image"]).any()


def test_splits_share_no_scene(scenes):
    validation = ScenesValidation(size=32, length=16)
    trained = {scenes[index]["image"].tobytes() for index in range(16)}
    assert not trained & {validation[index]["image"].tobytes() for index in range(16)}


def test_layout_tokens_are_those_of_the_annotations(scenes):
    for index in range(12):
        item = scenes[index]
        builder = scenes.conditional_builders["objects_bbox"]
        found, crop = builder.inverse_build(item["objects_bbox"])
        assert crop is None
        wanted = {(each.category_no, tuple(np.round(each.bbox, 1))) for each in item["annotations"]}
        got = {(number, tuple(np.round(box, 1))) for number, box in found}
        assert {number for number, _ in got} == {number for number, _ in wanted}
        for annotation in item["annotations"]:
            boxes = [box for number, box in found if number == annotation.category_no]
            assert min(np.abs(np.subtract(box, annotation.bbox)).max() for box in boxes) <= 1 / 15


def test_boxes_hold_their_objects_exactly(scenes):
    for index in range(12):
        item = scenes[index]
        labels = item["segmentation"].argmax(axis=2)
        for annotation in item["annotations"]:
            left, top, width, height = (round(32 * value) for value in annotation.bbox)
            inside = labels[top : top + height, left : left + width] == scenes.label_names.index(annotation.category_id)
            assert inside.any(axis=1)[[0, -1]].all() and inside.any(axis=0)[[0, -1]].all()


def test_crops_are_windows_of_the_whole_scene():
    whole, part = ScenesTrain(size=48, length=4), ScenesTrain(size=48, length=4, crop_size=32)
    for index in range(4):
        scene, crop = whole[index], part[index]
        top, left = divmod(round(float(crop["coord"][0, 0, 0]) * 48**2), 48)
        window = np.s_[top : top + 32, left : left + 32]
        for key in ("image", "segmentation", "coord"):
            np.testing.assert_array_equal(crop[key], scene[key][window])
        for annotation in crop["annotations"]:
            assert max(annotation.bbox[0] + annotation.bbox[2], annotation.bbox[1] + annotation.bbox[3]) <= 1
    assert len({float(part[index]["coord"][0, 0, 0]) for index in range(4)}) > 1


def test_keys_choose_and_order_what_an_item_has():
    item = ScenesTrain(length=2, keys=["depth", "image"])[0]
    assert list(item) == ["depth", "image"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": "moon"}, "unknown world 'moon'; choose from simple, rich"),
        ({"keys": ["mask"]}, "unknown key 'mask'"),
        ({"size": 8}, "size=8"),
        ({"crop_size": 64}, "crop_size=64"),
        ({"length": 0}, "length=0"),
    ],
)
def test_wrong_options_are_told_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        ScenesTrain(**options)
    assert "taming.data.scenes.ScenesTrain" in str(error.value) and "\n" not in str(error.value)


def test_an_index_outside_ends_iteration():
    scenes = ScenesTrain(length=3, keys=["class_label"])
    assert len(list(scenes)) == 3
    with pytest.raises(IndexError):
        scenes[-1]


def test_datasets_come_from_yaml_collate_and_travel_to_workers():
    config = {"target": "taming.data.scenes.ScenesValidation", "params": {"size": 32, "length": 4, "world": "rich"}}
    dataset = pickle.loads(pickle.dumps(instantiate_from_config(config)))
    batch = custom_collate([dataset[0], dataset[1]])
    assert batch["image"].shape == (2, 32, 32, 3)
    assert batch["segmentation"].shape == (2, 32, 32, len(CLASSES))
    assert dataset.get_textual_label_for_category_no(0) == "tree"


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(GROUNDS)))
def test_any_simple_scene_renders(seed, kind):
    image, maps = render(simple_scene(np.random.default_rng(seed), kind, 16, 16), 1)
    assert image.shape == (16, 16, 3)
    assert maps.owners.min() >= 0
