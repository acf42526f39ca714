"""Scene layouts as tokens: against the published builders, there and back, in pictures, and with bad input."""

import pickle
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import agree, cases, names
from PIL import ImageFont

from taming.config import get_obj_from_str
from taming.data.conditional_builder import utils
from taming.data.conditional_builder.objects_bbox import ObjectsBoundingBoxConditionalBuilder as BoxBuilder
from taming.data.conditional_builder.objects_center_points import ObjectsCenterPointsConditionalBuilder as PointBuilder
from taming.data.helper_types import Annotation

CASES = cases("data_objects")
SETS = CASES["builder/annotation-sets"]["outputs"]
HELPERS = CASES["helpers"]["outputs"]
BUILDERS = names("data_objects", "builder/objects")
PUBLISHED = CASES["builder/objects_bbox/0"]["kwargs"] | {"no_max_objects": 4, "no_tokens": 8192}


def annotation(category_no=0, bbox=(0.0, 0.0, 1.0, 1.0), **flags):
    return Annotation(1.0, image_id="i", bbox=tuple(bbox), category_no=category_no, category_id="c", **flags)


def annotations(name):
    """A set of the published figures.

    They hold boxes rounded to nine digits, which puts 3 * 0.05 on a tie between two points of the grid: those of
    `too-many` are computed here, as their published tokens require.
    """
    found = [annotation(**fields) for fields in SETS[name]]
    if name != "too-many":
        return found
    return [one._replace(bbox=(0.1 * i, 0.05 * i, 0.3, 0.2)) for i, one in enumerate(found)]


class InOrder(random.Random):
    """Leaves the objects in the order given, as the published figures do."""

    def shuffle(self, x):
        pass


@pytest.mark.parametrize("name", BUILDERS)
def test_numbers_of_the_published_builders(name):
    case = CASES[name]
    builder, stored = get_obj_from_str(case["target"])(**case["kwargs"]), case["outputs"]
    sizes = ("object_descriptor_length", "embedding_dim", "no_sections")
    agree(stored, {size: getattr(builder, size) for size in sizes} | {"none_token": builder.none, "...": "below"})
    for method in ("tokenize_coordinates", "coordinates_from_token", "token_pair_from_bbox", "bbox_from_token_pair"):
        for *arguments, expected in stored[method]:
            agree([expected], [getattr(builder, method)(*arguments)])
    for fields, number in stored["object_representation"]:
        assert builder.object_representation(annotation(**fields)) == number
    for number, fields in stored["representation_to_annotation"]:
        agree(fields, builder.representation_to_annotation(number)._asdict())


@pytest.mark.parametrize("name", BUILDERS)
def test_tokens_of_the_published_builders_there_and_back(name):
    case = CASES[name]
    builder = pickle.loads(pickle.dumps(get_obj_from_str(case["target"])(**case["kwargs"])))  # as workers get it
    for stored in case["outputs"]["build"]:
        arguments = annotations(stored["annotations"]), stored["crop"], stored["flip"]
        tokens = builder.build(*arguments, rng=InOrder())
        assert (tokens.dtype, tokens.tolist()) == (torch.int64, stored["tokens"]), stored
        agree(stored["inverse_build"], builder.inverse_build(tokens))
        for seed, shuffled in enumerate(stored.get("tokens_with_random_seed_0_1", ())):
            random.seed(seed)
            assert builder.build(*arguments).tolist() == shuffled
            assert builder.build(*arguments, rng=random.Random(seed)).tolist() == shuffled


HALF = (0.25, 0.0, 0.5, 1.0)
FLAGS = ("is_group_of", "is_occluded", "is_depiction", "is_inside")
SPECIAL = dict(zip(FLAGS, (True, True, False, True), strict=True))


@pytest.mark.parametrize(
    ("kind", "encode_crop", "crop", "flip", "objects", "end"),
    [
        (BoxBuilder, True, None, False, [113, 1629, 4806], [0, 8099]),
        (PointBuilder, True, None, False, [113, 3262], [0, 8099]),
        (BoxBuilder, True, HALF, True, [113, 1673, 4850], [22, 8077]),
        (PointBuilder, True, None, True, [113, 3307], [0, 8099]),
        (BoxBuilder, False, HALF, False, [113, 1620, 4823], []),
        (PointBuilder, False, HALF, True, [113, 3302], []),
    ],
)
def test_published_size(kind, encode_crop, crop, flip, objects, end):
    builder = kind(**PUBLISHED | {"encode_crop": encode_crop})
    tokens = builder.build([annotation(3, (0.1, 0.2, 0.3, 0.4), **SPECIAL)], crop, flip).tolist()
    padding = [8191] * (builder.embedding_dim - len(objects) - len(end))
    assert tokens == objects + padding + end


@pytest.mark.parametrize(
    ("encode_crop", "flip", "box", "tokens"),
    [
        (False, False, (0.4, 0.3, 0.3, 0.2), [7, 1000, 5059]),
        (False, True, (0.4, 0.3, 0.3, 0.2), [7, 1040, 5099]),
        (True, False, (0.4, 0.3, 0.3, 0.2), [7, 3040, 5069, 2550, 7499]),
        (True, True, (0.4, 0.3, 0.3, 0.2), [7, 3030, 5059, 2500, 7450]),
        (False, False, (0.1, 0.1, 0.2, 0.2), [9999, 9999, 9999]),
        (True, False, (0.1, 0.1, 0.2, 0.2), [9999, 9999, 9999, 2550, 7499]),
    ],
)
def test_object_that_begins_left_of_the_crop_keeps_its_width(encode_crop, flip, box, tokens):
    builder = BoxBuilder(10, 1, 10_000, encode_crop, True, True)
    assert builder.build([annotation(7, box)], (0.5, 0.25, 0.5, 0.5), flip).tolist() == tokens


def test_coco_layout():
    builder = BoxBuilder(171, 30, 8192, True, True, False)
    tokens = builder.build([annotation(0, (0.1, 0.2, 0.3, 0.4), is_group_of=True)], (0.125, 0.0, 0.75, 1.0), True)
    assert tokens.tolist() == [171, 1673, 4850, *[8191] * 87, 11, 8088]
    number = builder.build([annotation(0, (0.1, 0.2, 0.3, 0.4), is_group_of=1)])
    assert number[0] == 0  # a flag that is a number, as COCO's, does not count


def test_flags_and_grid():
    builder = PointBuilder(340, 30, 8192, True, True, True)
    one_each = [builder.object_representation(annotation(5, **{flag: True})) for flag in FLAGS]
    assert one_each == [345, 685, 1365, 2725]
    assert builder.object_representation(annotation(5, **dict.fromkeys(FLAGS, True))) == 5105
    assert builder.object_representation(annotation(5, is_truncated=True)) == 5
    assert builder.tokenize_coordinates(0.5, 0.5) == 4004
    assert builder.coordinates_from_token(4004) == pytest.approx((44 / 89, 44 / 89))
    three, four = (PointBuilder(1, 1, no_tokens, False, False, False) for no_tokens in (9, 16))
    assert [three.tokenize_coordinates(x, 0) for x in (0.25, 0.26, 0.75)] == [0, 1, 2]
    assert [four.tokenize_coordinates(2 / 3, 1 / 3), four.tokenize_coordinates(1, 1)] == [6, 15]


def test_stored_annotations_stay_and_the_order_varies():
    builder, objects = BoxBuilder(**PUBLISHED | {"no_max_objects": 5}), annotations("flags")
    before = list(objects)
    orders = {tuple(builder.build(objects, rng=random.Random(seed)).tolist()) for seed in range(200)}
    assert objects == before
    assert len(orders) == 24


def test_notices_of_empty_and_overfull_layouts(caplog):
    builder = BoxBuilder(**PUBLISHED)
    assert builder.build([]).tolist() == [8191] * 12 + [0, 8099]
    assert "without any object" in caplog.text
    builder.build(annotations("too-many"))
    assert "7 objects, of which the first 4 are used" in caplog.text


@st.composite
def boxes(draw):
    """Boxes inside the image that are not empty."""
    x0, y0 = draw(st.floats(0, 0.95)), draw(st.floats(0, 0.95))
    return x0, y0, draw(st.floats(0.01, 1 - x0)), draw(st.floats(0.01, 1 - y0))


@st.composite
def layouts(draw):
    """A builder whose vocabulary has room for all its classes, and what it builds from."""
    no_object_classes, no_max_objects = draw(st.integers(1, 20)), draw(st.integers(1, 6))
    no_tokens = draw(st.integers(16 * no_object_classes + 1, 2000))
    kind = draw(st.sampled_from((BoxBuilder, PointBuilder)))
    builder = kind(no_object_classes, no_max_objects, no_tokens, *draw(st.tuples(*[st.booleans()] * 3)))
    flags = {flag: st.sampled_from((None, False, True)) for flag in FLAGS}
    objects = st.builds(annotation, st.integers(0, no_object_classes - 1), boxes(), **flags)
    return builder, draw(st.lists(objects, max_size=8)), draw(boxes()), draw(st.booleans())


@settings(max_examples=60)
@given(layout=layouts())
def test_there_and_back_within_the_grid(layout):
    builder, objects, crop, flip = layout
    seen = utils.filter_annotations(objects[: builder.no_max_objects], crop)
    seen = utils.rescale_annotations(seen, utils.FULL_CROP if builder.encode_crop else crop, flip)
    tokens = builder.build(objects, crop, flip, rng=InOrder())
    assert (tokens.shape, tokens.dtype) == ((builder.embedding_dim,), torch.int64)
    assert 0 <= min(tokens) <= max(tokens) < builder.no_tokens

    found, found_crop = builder.inverse_build(tokens)
    near = {"abs": 0.5 / (builder.no_sections - 1) + 1e-9}

    assert len(found) == len(seen)
    for (representation, place), original in zip(found, seen, strict=True):
        rebuilt = builder.representation_to_annotation(representation)
        assert rebuilt.category_no == original.category_no
        assert bool(rebuilt.is_group_of) == bool(builder.use_group_parameter and original.is_group_of)
        assert bool(rebuilt.is_inside) == bool(builder.use_additional_parameters and original.is_inside)
        x0, y0, width, height = original.bbox
        if isinstance(builder, BoxBuilder):
            assert corners(place) == pytest.approx(corners(original.bbox), **near)
        else:
            assert place == pytest.approx((x0 + width / 2, y0 + height / 2), **near)
    if builder.encode_crop:
        expected = utils.horizontally_flip_bbox(crop) if flip else crop
        assert corners(found_crop) == pytest.approx(corners(expected), **near)
    else:
        assert found_crop is None


def corners(box):
    x0, y0, width, height = box
    return x0, y0, x0 + width, y0 + height


@given(token=st.integers(0, 1999), no_tokens=st.integers(4, 2000))
def test_points_of_the_grid_are_their_own_tokens(token, no_tokens):
    builder = PointBuilder(1, 1, no_tokens, False, False, False)
    token %= builder.no_sections**2
    assert builder.tokenize_coordinates(*builder.coordinates_from_token(token)) == token


@given(box=boxes(), width=st.integers(1, 4000), height=st.integers(1, 4000))
def test_pixels_of_a_box_are_its_corners_truncated(box, width, height):
    back = [x / size for x, size in zip(utils.absolute_bbox(box, width, height), (width, height) * 2, strict=True)]
    for corner, truncated, size in zip(corners(box), back, (width, height) * 2, strict=True):
        assert -1e-9 <= corner - truncated < 1 / size


@given(box=boxes(), other=boxes())
def test_mirrored_boxes_overlap_as_before(box, other):
    flip = utils.horizontally_flip_bbox
    assert flip(flip(box)) == pytest.approx(box)
    assert utils.intersection_area(flip(box), flip(other)) == pytest.approx(utils.intersection_area(box, other))
    assert utils.intersection_area(box, other) == utils.intersection_area(other, box)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("intersection_area", utils.intersection_area),
        ("horizontally_flip_bbox", utils.horizontally_flip_bbox),
        ("absolute_bbox(bbox, width, height)", utils.absolute_bbox),
        ("pad_list", utils.pad_list),
        ("get_circle_size", utils.get_circle_size),
        ("get_plot_font_size", lambda size, given=None: utils.get_plot_font_size(given and int(given[-2:]), size)),
        ("rescale_annotations", lambda one, *how: utils.rescale_annotations([annotation(**one)], *how)[0].bbox),
        ("filter_annotations", lambda crop: [a[3] for a in utils.filter_annotations(annotations("flags"), crop)]),
    ],
)
def test_helper(name, function):
    for *arguments, expected in HELPERS[name]:
        agree([expected], [function(*arguments)])


def test_strings_of_flags():
    for fields, short, long in HELPERS["additional_parameters_string (short, long)"]:
        described = annotation(**fields)
        assert utils.additional_parameters_string(described) == short
        assert utils.additional_parameters_string(described, short=False) == long
    assert utils.additional_parameters_string(annotation(is_truncated=True)) == ""


def test_constants_and_fields():
    for name, value in HELPERS["constants"].items():
        agree([value], [getattr(utils, name)])
    fields = {name: str(Annotation._field_defaults.get(name, "required")) for name in Annotation._fields}
    assert list(fields.items()) == list(HELPERS["Annotation fields and defaults"].items())
    assert utils.load_object_from_string("taming.data.helper_types.Annotation") is Annotation


@pytest.mark.parametrize("name", names("data_objects", "plot/"))
def test_picture_of_the_published_builders(name):
    case = CASES[name]
    builder = get_obj_from_str(case["target"].removesuffix(".plot"))(**case["kwargs"])
    tokens = builder.build(annotations(case["annotations"]), case["crop"], rng=InOrder())
    plot = builder.plot(tokens, lambda number: "", tuple(case["figure_size"]))
    agree(case["outputs"], {"plot": plot, "...": 1})
    colors = {tuple(color) for color in ((plot.flatten(1).T + 1) * 127.5).round().int().tolist()}
    assert colors == {tuple(color) for color in case["outputs"]["colours"]}


@pytest.mark.parametrize("kind", [BoxBuilder, PointBuilder])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_labels_of_the_objects_in_their_order(kind, count):
    builder = kind(**PUBLISHED | {"no_max_objects": 30, "no_object_classes": 40})
    objects = [annotation(number, (number / 40, 0.25, 0.2, 0.2)) for number in range(count)]
    asked = []

    def label(number):
        asked.append(number)
        return f"class {number}"

    tokens = builder.build(objects, rng=InOrder())
    plot = builder.plot(tokens, label, (300, 200))
    assert asked == list(range(count))
    assert (plot.shape, plot.dtype, plot.min(), plot.max()) == ((3, 200, 300), torch.float32, -1, 1)  # black on white
    assert not torch.equal(plot, builder.plot(tokens, lambda number: "", (300, 200)))


@pytest.fixture
def drawn(monkeypatch):
    """What is written into pictures, and where: (text, position, anchor)."""
    labels = []
    module = "taming.data.conditional_builder.objects_center_points"
    monkeypatch.setattr(f"{module}.draw_label", lambda _, xy, text, font, anchor: labels.append((text, xy, anchor)))
    return labels


def test_label_tells_the_flags_and_unknown_objects(drawn):
    builder = PointBuilder(10, 4, 1024, False, True, False)
    tokens = torch.tensor([13, 500, 7, 500, 33, 500, 3, 500])  # a group, no name, a flag that is not in use, plain
    builder.plot(tokens, ["a", "b", "c", "d"].__getitem__, (64, 48))
    assert [text for text, *_ in drawn] == ["d (g)", "?", "?", "d "]


@pytest.mark.parametrize(
    ("kind", "tokens", "where"),
    [(PointBuilder, [2, 58], ((30, 25), "md")), (BoxBuilder, [2, 58, 95], ((32, 27), "la"))],
)
def test_label_above_the_point_and_inside_the_box(kind, tokens, where, drawn):
    kind(3, 1, 121, False, False, False).plot(tokens, str, (100, 50), line_width=2)
    assert drawn == [("2 ", *where)]


@pytest.mark.parametrize("kind", [BoxBuilder, PointBuilder])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), no_tokens=st.sampled_from([4, 8, 30, 8192]), encode_crop=st.booleans())
def test_any_tokens_make_a_picture(kind, seed, no_tokens, encode_crop):
    builder = kind(3, 4, no_tokens, encode_crop, True, False)
    tokens = torch.randint(no_tokens, (builder.embedding_dim,), generator=torch.Generator().manual_seed(seed))
    plot = builder.plot(tokens, str, (40, 24), line_width=2, font_size=8)
    assert plot.shape == (3, 24, 40)
    assert plot.abs().max() <= 1


def test_reversed_box_is_drawn_as_the_box_of_its_corners():
    builder = BoxBuilder(3, 1, 100, False, False, False)
    forward, backward = ([0, *pair] for pair in ((22, 77), (77, 22)))
    assert torch.equal(builder.plot(forward, str, (50, 50)), builder.plot(backward, str, (50, 50)))


def test_pictures_without_freetype(monkeypatch):
    def load_default(size=None):
        if size is not None:
            raise ImportError("no FreeType")
        return ImageFont.load_default_imagefont()

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    builder = BoxBuilder(**PUBLISHED)
    tokens = builder.build(annotations("three"), rng=InOrder())
    assert builder.plot(tokens, lambda number: "lantern ☼", (200, 200)).min() == -1


@pytest.mark.parametrize(("name", "least"), [("no_tokens", 4), ("no_object_classes", 1), ("no_max_objects", 1)])
def test_impossible_sizes(name, least):
    BoxBuilder(**PUBLISHED | {name: least})
    with pytest.raises(ValueError, match=f"BoundingBoxConditionalBuilder: {name} must be at least {least}, not"):
        BoxBuilder(**PUBLISHED | {name: least - 1})


@pytest.mark.parametrize(
    ("objects", "crop", "parts"),
    [
        ([annotation(10)], None, ["category 10", "no_object_classes=10"]),
        ([annotation(-1)], None, ["category -1"]),
        ([annotation(9, is_inside=True)], None, ["token 89", "category 9(inside)", "no_tokens=64"]),
        ([annotation(2, (10, 20, 30, 40))], None, ["bbox (10, 20, 30, 40)", "category 2", "pixels"]),
        ([annotation(2, (0.0, float("nan"), 0.5, 0.5))], None, ["nan", "category 2"]),
        ([annotation()], (0.5, 0.0, 0.6, 1.0), ["crop_coordinates (0.5, 0.0, 0.6, 1.0)"]),
        ([annotation()], (-0.1, 0.0, 0.5, 1.0), ["crop_coordinates (-0.1, 0.0, 0.5, 1.0)"]),
        ([annotation()], (0.5, 0.0, 0.0, 1.0), ["crop_coordinates (0.5, 0.0, 0.0, 1.0)"]),
        ([annotation()], (0, 0, 256, 256), ["crop_coordinates (0.0, 0.0, 256.0, 256.0)"]),
        ([], (0.0, 0.0, float("nan"), 1.0), ["crop_coordinates", "nan"]),
    ],
)
@pytest.mark.parametrize("kind", [BoxBuilder, PointBuilder])
@pytest.mark.parametrize("encode_crop", [True, False])
def test_what_makes_no_layout_is_named(kind, encode_crop, objects, crop, parts):
    builder = kind(**PUBLISHED | {"no_tokens": 64, "encode_crop": encode_crop})
    with pytest.raises(ValueError) as error:
        builder.build(objects, crop)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_boxes_that_leave_the_image_a_little_are_limited_to_it():
    builder = BoxBuilder(**PUBLISHED)
    beyond, limited = (builder.build([annotation(1, box)]) for box in ((0.5, 0.5, 0.51, 0.6), (0.5, 0.5, 0.5, 0.5)))
    assert beyond.tolist() == limited.tolist()


@pytest.mark.parametrize("place", [(1.2, 0.5), (0.5, -0.2), (float("nan"), 0.5), (0.5, float("inf"))])
def test_places_outside_the_grid(place):
    with pytest.raises(ValueError, match="outside the image"):
        PointBuilder(**PUBLISHED).tokenize_coordinates(*place)


@pytest.mark.parametrize("shape", [(13,), (15,), (1, 14), ()])
def test_sequences_of_another_length(shape):
    builder = BoxBuilder(**PUBLISHED)
    for use in (builder.inverse_build, lambda tokens: builder.plot(tokens, str, (64, 64))):
        with pytest.raises(ValueError, match=r"embedding_dim=14 tokens, not of shape"):
            use(torch.zeros(shape, dtype=torch.long))
