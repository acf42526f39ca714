"""The example data that ship, and the command that makes and checks them."""

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taming.cli import run_command
from taming.data.depth_maps import rgba_to_depth
from taming.data.example_data import annotated, coco_scenes, depth_examples, layout, open_images_scenes
from taming.data.example_data.make import SETS, check, make
from taming.data.example_data.maps import COCO_CODES
from taming.data.rendering.classes import CLASSES
from taming.data.rendering.views import view

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data"
SMALL = {"train": 5, "validation": 1}
"""Enough to have every special scene."""


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("make_example_data", ROOT / "scripts" / "make_example_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Both annotated sets with few images."""
    folder = tmp_path_factory.mktemp("small") / "data"
    with pytest.MonkeyPatch.context() as patch:
        for module in (annotated, coco_scenes, open_images_scenes):
            patch.setattr(module, "SPLITS", SMALL)
        make(folder, only=["coco_scenes", "open_images"])
        yield folder


@pytest.mark.parametrize("name", ["ade20k", "coco", "sflckr", "drin", "custom"])
def test_the_files_that_ship_are_right(name):
    assert check(DATA, only=[name]) == []


def test_the_annotated_scenes_that_ship_pass_the_published_filters():
    for module, n_classes in ((coco_scenes, 171), (open_images_scenes, 340)):
        for split, length in annotated.SPLITS.items():
            dataset = module.dataset(DATA, split)
            assert (len(dataset), dataset.no_classes) == (length, n_classes)
            assert all(3 <= len(dataset[index]["annotations"]) <= 12 for index in range(length))


def test_all_files_together_are_small_and_are_all_there():
    files = [
        path for names in SETS.values() for name in names.names for path in (DATA / name, *(DATA / name).rglob("*"))
    ]
    total = sum(path.stat().st_size for path in files if path.is_file())
    assert 1_000_000 < total < 3_000_000
    assert len((DATA / "flickr_tags.txt").read_text().splitlines()) == 40
    assert len((DATA / "subreddits.txt").read_text().splitlines()) == 12
    assert "CC0 1.0" in (DATA / "README.md").read_text()


def test_annotated_sets_agree_with_their_scenes(small):
    assert check(small, only=["coco_scenes", "open_images"]) == []


def test_a_box_of_coco_is_that_of_its_mask(small):
    content = json.loads((small / "coco_annotations_100/annotations/instances_train2017.json").read_text())
    annotation = content["annotations"][0]
    split, image_id, scene, maps, _ = next(coco_scenes._annotated(0))
    assert (split, image_id) == ("train", annotation["image_id"])
    left, top, width, height = (int(value) for value in annotation["bbox"])
    kinds = [CLASSES[each.kind].coco if each.kind in CLASSES else None for each in scene.instances]
    numbers = [n for n in scene.objects if kinds[n] == annotation["category_id"]]
    areas = {int((maps.owners == n).sum()): np.argwhere(maps.owners == n) for n in numbers}
    points = areas[int(annotation["area"])]
    assert points.min(axis=0).tolist() == [top, left]
    assert points.max(axis=0).tolist() == [top + height - 1, left + width - 1]


def test_coco_has_a_flock_and_what_is_in_no_class(small):
    folder = small / "coco_annotations_100/annotations"
    things, stuff = (json.loads((folder / f"{part}_train2017.json").read_text()) for part in ("instances", "stuff"))
    assert [a["category_id"] for a in things["annotations"] if a["iscrowd"]] == [20]
    assert any(a["category_id"] == 183 for a in stuff["annotations"])
    assert (len(things["categories"]), len(stuff["categories"])) == (80, 92)
    ids = [a["id"] for part in (things, stuff) for a in part["annotations"]]
    assert len(set(ids)) == len(ids)


def test_open_images_has_every_flag_and_the_special_rows(small):
    folder = small / "open_images_annotations_100"
    with (folder / "oidv6-train-annotations-bbox.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows[0]) == 21 and rows[0]["XClick1X"] == "-1.000000"
    for flag in ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"):
        assert any(row[flag] == "1" for row in rows), flag
    machine = [row for row in rows if row["Source"] != "xclick"]
    assert len(machine) == 1 and machine[0]["Source"] == "activemil" and machine[0]["IsInside"] == "-1"
    labels = {row["LabelName"] for row in rows}
    assert labels >= {"/m/04yx4", "/m/03bt1vf", "/m/01226z", "/m/011q46kg"}  # man, woman, football, container
    assert all(len(row["ImageID"]) == 16 and int(row["ImageID"], 16) for row in rows)
    assert len((folder / "class-descriptions-boxable.csv").read_text().splitlines()) == 601


def test_the_same_seed_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(depth_examples, "ENTRIES", depth_examples.ENTRIES[:2])
    make(tmp_path / "a", only=["drin"])
    make(tmp_path / "b", only=["drin"])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 5
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_what_ships_is_what_the_command_makes():
    """One depth map and one label map: lossless, so the same wherever the scene is rendered."""
    scene, maps = depth_examples.scene(0, seed=0)
    stored = np.array(Image.open(DATA / "drin_depth/n02099601/example_0.png"))
    depth = rgba_to_depth(stored)
    wanted = np.where(depth_examples.animal_mask(scene, maps), depth, 0)
    assert (depth != depth_examples.inverse_depth(maps.depth)).mean() < 1e-3
    assert wanted.max() > 2000


def test_recipes_without_a_good_scene_are_our_own_mistake(monkeypatch):
    monkeypatch.setattr(layout, "TRIES", 3)
    with pytest.raises(AssertionError, match="park"):
        annotated.recipe(1).make_until(layout.generator("x", 0, 0), lambda scene: False)


def test_codes_of_coco_files_are_ids_less_one():
    assert (COCO_CODES["person"], COCO_CODES["sky"], COCO_CODES["lamp"]) == (0, 156, 255)


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(DATA, tmp_path / "data")
    return tmp_path / "data"


def broken_map(folder):
    Image.fromarray(np.zeros((288, 384), np.uint8)).save(folder / "ade20k_segmentations/scene_000.png")


def unlisted_file(folder):
    (folder / "drin_images" / "more.JPEG").write_bytes(b"")


def missing_image(folder):
    (folder / "sflckr_images/norway/example_0.jpg").unlink()


def other_size(folder):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "coco_segmentations/000009000001.png")


def no_depth(folder):
    path = folder / "drin_depth/n01847000/example_0.png"
    with Image.open(path) as image:
        size = image.size
    Image.new("RGBA", size, (0, 0, 72, 67)).save(path)  # the bytes of 200.0


def exif(folder):
    path = folder / "custom_examples/coffee.jpg"
    with Image.open(path) as image:
        image.load()
    metadata = image.getexif()
    metadata[270] = "a cup"
    image.save(path, exif=metadata)


@pytest.mark.parametrize(
    ("damage", "name", "told"),
    [
        (broken_map, "ade20k", "fewer than 3 classes"),
        (unlisted_file, "drin", "more.JPEG is in no list"),
        (missing_image, "sflckr", "norway/example_0.jpg is missing"),
        (other_size, "coco", "differ in size"),
        (no_depth, "drin", "hardly any depth"),
        (exif, "custom", "coffee.jpg has metadata: exif"),
    ],
)
def test_damage_is_found_and_named(copied, command, capsys, damage, name, told):
    damage(copied)
    assert run_command(command, ["--outdir", str(copied), "--check", "--only", name]) == 1
    assert told in capsys.readouterr().out


def test_nothing_is_overwritten_unasked(tmp_path, command, capsys):
    arguments = ["--outdir", str(tmp_path / "data"), "--only", "custom"]
    assert run_command(command, arguments) == 0
    assert run_command(command, arguments) == 2
    assert "custom_examples exists; --force replaces it" in capsys.readouterr().err
    assert run_command(command, [*arguments, "--force"]) == 0
    assert run_command(command, [*arguments, "--check"]) == 0


def test_animals_fill_the_stated_share():
    for index in range(len(depth_examples.ANIMALS)):
        scene, maps = depth_examples.scene(index, seed=0)
        mask = depth_examples.animal_mask(scene, maps)
        assert 0.3 <= max(np.ptp(np.argwhere(mask), axis=0) + 1) / min(mask.shape) <= 0.7
        np.testing.assert_array_equal(view(scene).owners, maps.owners)
