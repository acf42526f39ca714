"""Open Images' scenes: what is read of its tables, and the published figures of the real ones."""

import pytest
from parity import cases, names
from scene_figures import check_dataset
from shared_data import shared_data
from tiny_scenes import CLASSES, COLUMNS, PARAMETERS, ROWS, write_csv, write_open_images

from taming.data.annotated_objects_open_images import (
    OPEN_IMAGES_STRUCTURE,
    AnnotatedObjectsOpenImages,
    load_categories,
    load_image_ids,
)
from taming.data.helper_types import Annotation
from taming.data.open_images_helper import (
    open_images_unify_categories_for_coco,
    top_300_classes_plus_coco_compatibility,
)

CASES = cases("data_objects")
MAPPING = "taming.data.open_images_helper.open_images_unify_categories_for_coco"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_open_images(tmp_path_factory.mktemp("open_images"))


def scenes(folder, **changes):
    return AnnotatedObjectsOpenImages(**{"data_path": folder, "use_additional_parameters": True} | PARAMETERS | changes)


def test_rows(folder):
    data = scenes(folder)
    assert data.category_ids == ["/m/01g317", "/m/01yrx", "/m/04yx4", "/m/07j7r", "/m/01s55n"]
    assert data.image_ids == ["b" * 16, "a1"]
    man, suitcase = data.get_annotation("b" * 16)
    assert man == Annotation(
        area=pytest.approx(0.08),
        image_id="b" * 16,
        bbox=pytest.approx((0.1, 0.2, 0.2, 0.4)),
        category_no=2,
        category_id="/m/04yx4",
        id=0,
        source="xclick",
        confidence=1.0,
        is_group_of=False,
        is_truncated=True,
        is_occluded=False,
        is_depiction=False,
        is_inside=False,
    )
    # Unknown flags count as set (QD14.1), and `id` counts the rows left out, too.
    assert [suitcase.is_group_of, suitcase.is_occluded, suitcase.is_depiction, suitcase.is_inside] == [True] * 4
    assert (suitcase.id, suitcase.source, suitcase.confidence) == (1, "activemil", 0.5)
    assert [found.id for found in data.get_annotation("a1")] == [3, 4]


def test_flags_in_layouts(folder):
    data = scenes(folder)
    _, suitcase = data.get_annotation("b" * 16)
    assert data.conditional_builders["objects_bbox"].object_representation(suitcase) == 4 + 5 * 15
    plain = scenes(folder, use_additional_parameters=False, use_group_parameter=False)
    assert plain.conditional_builders["objects_bbox"].object_representation(suitcase) == 4


def test_merged_categories(folder):
    data = scenes(folder, category_mapping_target=MAPPING)
    assert data.category_ids == ["/m/01g317", "/m/01yrx", "/m/07j7r", "/m/01s55n"]
    assert data.get_annotation("b" * 16)[0].category_id == "/m/01g317"


def test_objects_of_no_more_than_the_least_area(folder):
    data = scenes(folder, min_object_area=0.1 * 0.1, min_objects_per_image=1)
    assert [found.id for found in data.get_annotation("a1")] == [3]


def test_items(folder):
    data = scenes(folder, keys=["image", "file_path", "file_name", "image_path"], target_image_size=16)
    item = data[1]
    assert item["file_name"] == "00000000000000a1.jpg"
    assert item["file_path"] == item["image_path"] == f"{folder}/train/00000000000000a1.jpg"
    assert item["image"].shape == (16, 16, 3)
    assert list(scenes(folder, keys=[])[0]) == ["file_path", "file_name", "annotations"]


def test_subset_of_the_training_set_is_told(folder, tmp_path, caplog):
    scenes(folder)
    assert "oidv6-train-annotations-bbox.csv has 5 boxes, fewer than the 14000000" in caplog.text
    caplog.clear()
    path = tmp_path / "train"  # a folder's name does not make a training set (QD14.2)
    path.mkdir()
    write_open_images(path)
    (path / "oidv6-train-annotations-bbox.csv").rename(path / "validation-annotations-bbox.csv")
    (path / "train-images-boxable.csv").rename(path / "validation-images.csv")
    (path / "train").rename(path / "validation")
    scenes(path, split="validation")
    assert not caplog.records


def test_splits(folder):
    assert CASES["path-structures"]["outputs"]["open_images"] == OPEN_IMAGES_STRUCTURE
    with pytest.raises(
        FileNotFoundError, match=r"OpenImages: .*test-annotations-bbox\.csv does not exist; get it from"
    ):
        scenes(folder, split="test")
    with pytest.raises(ValueError, match=r"OpenImages: no split 'val'; choose from train, validation, test"):
        scenes(folder, split="val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, r"oidv6-train-annotations-bbox\.csv has no boxes"),
        ({"columns": COLUMNS.replace("XMin", "xmin")}, r"bbox\.csv has no column XMin;"),
        ({"rows": [ROWS[0], ROWS[0][:-1]]}, r"bbox\.csv: row 1 after the header cannot be read: "),
        ({"rows": [(*ROWS[0][:4], "left", *ROWS[0][5:])]}, r"bbox\.csv: row 0 .*'left'"),
        ({"classes": [*CLASSES, ("/m/0", "a", "b")]}, r"class-descriptions-boxable\.csv: '/m/0,a,b' is no pair"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, changes, message):
    write_open_images(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"^taming.*AnnotatedObjectsOpenImages: .*{message}") as error:
        scenes(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["oidv6-train-annotations-bbox.csv", "class-descriptions-boxable.csv"])
def test_tables_that_are_no_text(tmp_path, name):
    write_open_images(tmp_path)
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=rf"OpenImages: .*{name}, after line 0: no table in UTF-8"):
        scenes(tmp_path)


def test_header_of_the_classes_is_skipped(tmp_path):
    write_csv(tmp_path / "classes.csv", [("LabelName", "DisplayName"), *CLASSES])
    categories = load_categories(tmp_path / "classes.csv")
    assert [(category.id, category.name) for category in categories.values()] == CLASSES


def test_names_of_images(folder, tmp_path):
    assert load_image_ids(f"{folder}/train-images-boxable.csv") == ["0.jpg"]
    write_csv(tmp_path / "list.csv", [("a", "b")])
    with pytest.raises(ValueError, match=r"list\.csv has no column image_name"):
        load_image_ids(tmp_path / "list.csv")


def test_lists_are_the_published_ones():
    stored = CASES["open-images/helper-lists"]["outputs"]
    assert open_images_unify_categories_for_coco == stored["mapping"]
    assert all(isinstance(pair, tuple) for pair in top_300_classes_plus_coco_compatibility)
    assert [list(pair) for pair in top_300_classes_plus_coco_compatibility] == stored["allow_list"]
    assert len({name for name, _ in top_300_classes_plus_coco_compatibility}) == stored["allow_list_distinct"]


@pytest.mark.parametrize("name", names("data_objects", "dataset/open-images/"))
def test_published_scenes(name, monkeypatch):
    monkeypatch.chdir(shared_data().parent)
    case = CASES[name]
    check_dataset(case, AnnotatedObjectsOpenImages(**case["kwargs"]), monkeypatch)
