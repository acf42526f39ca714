"""Depth maps as files, normalised, and next to their images."""

import ast
import pickle
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from omegaconf import OmegaConf
from paired_figures import check_image, write
from parity import agree, cases, make
from PIL import Image
from shared_data import shared_data
from tiny_imagenet import be_offline, place_with_depth

from taming.data._io import read_rgb, to_float
from taming.data.depth_maps import depth_to_rgba, normalize_depth, read_depth, rgba_to_depth, save_depth
from taming.data.imagenet import (
    DRINExamples,
    ImageNetTrainWithDepth,
    ImageNetValidationWithDepth,
    RINTrainWithDepth,
    RINValidationWithDepth,
    get_preprocessor,
)

CASES = cases("data_images")


def ramp(height=20, width=30):
    return np.arange(height * width, dtype=np.float32).reshape(height, width)


def test_published_bytes():
    case = CASES["depth-to-rgba"]
    depth = make(case["inputs"]).numpy()
    agree(case["outputs"]["rgba"], depth_to_rgba(depth).astype(np.int64))


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(width=32, allow_nan=False)))
def test_depth_survives_its_bytes(depth):
    for layout in (np.ascontiguousarray, np.asfortranarray):
        rgba = depth_to_rgba(layout(depth))
        assert (rgba.dtype, rgba.shape) == (np.uint8, (*depth.shape, 4))
        assert rgba_to_depth(layout(rgba)).tobytes() == depth.tobytes()


def test_files_hold_the_very_floats(tmp_path):
    depth = np.random.default_rng(0).normal(2000, 900, (7, 5)).astype(np.float32)
    path = tmp_path / "new" / "folder" / "x.png"
    save_depth(path, depth)
    assert read_depth(path, "d").tobytes() == depth.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("function", "array"),
    [
        (rgba_to_depth, np.zeros((2, 2, 3), np.uint8)),
        (rgba_to_depth, np.zeros((2, 2, 4), np.int32)),
        (rgba_to_depth, np.zeros((2, 4), np.uint8)),
        (depth_to_rgba, np.zeros((2, 2))),
        (depth_to_rgba, np.zeros((2, 2, 1), np.float32)),
    ],
)
def test_other_arrays_are_refused(function, array):
    with pytest.raises(ValueError, match=rf"{array.dtype}.*\({array.shape[0]}, "):
        function(array)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=2), elements=st.floats(-1e6, 1e6, width=32)))
def test_normalised_depth_reaches_both_ends(depth):
    normal = normalize_depth(depth)
    assert normal.dtype == np.float32
    assert normal.min() == -1
    if np.ptp(depth) > 1e-7:
        assert normal.max() == 1
    if np.ptp(depth) == 0:
        assert (normal == -1).all()


def test_files_that_hold_no_depth(tmp_path):
    depth = ramp()
    depth[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"x\.png: depths to save must be finite"):
        save_depth(tmp_path / "x.png", depth)
    Image.fromarray(depth_to_rgba(depth)).save(tmp_path / "nan.png")
    with pytest.raises(ValueError, match=r"d: .*nan\.png holds values that are no finite numbers"):
        read_depth(tmp_path / "nan.png", "d")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"d: depth map .*rgb\.png has mode RGB; expected floats coded as RGBA"):
        read_depth(tmp_path / "rgb.png", "d")
    with pytest.raises(FileNotFoundError, match=r"d: file not found: .*none\.png; make it"):
        read_depth(tmp_path / "none.png", "d", "make it")
    (tmp_path / "cut.png").write_bytes((tmp_path / "nan.png").read_bytes()[:60])
    with pytest.raises(OSError, match=r"d: cannot read image .*cut\.png"):
        read_depth(tmp_path / "cut.png", "d")


def test_published_examples(monkeypatch):
    monkeypatch.chdir(shared_data().parent)
    data = DRINExamples()
    for stored in CASES["drin"]["outputs"]:
        index = data.image_paths.index(stored["image_file"])
        assert data.depth_paths[index] == stored["depth_file"]
        depth = read_depth(stored["depth_file"], "d")
        agree(stored["raw_depth"], depth)
        agree(stored["preprocess_depth"], normalize_depth(depth))
        item = data[index]
        assert sorted(item) == stored["keys"]
        check_image(stored["image"], item["image"])
        agree(stored["depth"], item["depth"])


def test_examples_equal_separate_processing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/drin_examples.txt").write_text("n01/a.JPEG\n")
    pixels = np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8)
    write(tmp_path / "data/drin_images/n01/a.JPEG", pixels)
    save_depth(tmp_path / "data/drin_depth/n01/a.png", ramp(300, 420))
    data = pickle.loads(pickle.dumps(DRINExamples()))
    item = data[0]
    square = get_preprocessor(size=256)
    np.testing.assert_array_equal(item["image"], to_float(square(image=pixels)["image"]))
    np.testing.assert_array_equal(item["depth"], square(image=normalize_depth(ramp(300, 420)))["image"])
    assert (len(data), item["depth"].shape, item["depth"].dtype) == (1, (256, 256), np.float32)
    save_depth(tmp_path / "data/drin_depth/n01/a.png", ramp(300, 419))
    with pytest.raises(ValueError, match=r"DRINExamples: image .*a\.JPEG has 420 x 300 .* depth map .* 419 x 300"):
        data[0]
    (tmp_path / "data/drin_depth/n01/a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png; it is listed in data/drin_examples\.txt"):
        data[0]


def test_published_pipelines():
    path = shared_data().parent / CASES["get-preprocessor"]["file"]
    image = to_float(read_rgb(path, "d"))
    for options, stored in CASES["get-preprocessor"]["outputs"].items():
        agree(stored["summary"], get_preprocessor(**ast.literal_eval(options))(image=image)["image"])


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """The current folder with both splits, their depth and no network."""
    be_offline(tmp_path, monkeypatch)
    place_with_depth()
    return tmp_path


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (20, 30)),
        ({"size": 0}, (20, 30)),
        ({"size": 16}, (16, 16)),
        ({"size": 26}, (26, 26)),
        ({"crop_size": 12}, (12, 12)),
        ({"crop_size": 25}, (25, 25)),
        ({"size": 16, "crop_size": 40}, (16, 16)),
    ],
)
@pytest.mark.parametrize("kind", [ImageNetTrainWithDepth, ImageNetValidationWithDepth])
def test_image_and_depth_share_their_geometry(imagenet, kind, options, shape):
    data = pickle.loads(pickle.dumps(kind(**options)))
    random.seed(0)
    for i in range(len(data)):
        item = data[i]
        assert (item["depth"].shape, item["depth"].dtype) == (shape, np.float32)
        assert (item["image"].shape, item["image"].dtype) == ((*shape, 3), np.float32)
        np.testing.assert_allclose(item["image"][:, :, 0], item["depth"], atol=1e-5)
    keys = ["image", "relpath", "synsets", "class_label", "human_label", "file_path_", "depth"]
    assert (len(data), list(item)) == (5, keys)


@pytest.mark.parametrize(
    ("kind", "options", "n_different", "mirrors"),
    [
        (ImageNetTrainWithDepth, {"size": 20}, 11 * 2, True),
        (ImageNetTrainWithDepth, {"crop_size": 20}, 11, False),
        (ImageNetTrainWithDepth, {"size": 20, "random_crop": False}, 1, False),
        (ImageNetValidationWithDepth, {"size": 20}, 1, False),
        (RINTrainWithDepth, {"size": 20}, 11 * 2, True),
        (RINValidationWithDepth, {"size": 20}, 1, False),
    ],
)
def test_who_crops_and_mirrors_at_random(imagenet, kind, options, n_different, mirrors):
    data = kind(**options)
    random.seed(0)
    depths = [data[0]["depth"] for _ in range(150)]
    assert len({depth.tobytes() for depth in depths}) == n_different
    assert any(depth[0, 0] > depth[0, -1] for depth in depths) == mirrors


def test_restricted_imagenet(imagenet, caplog):
    data = RINTrainWithDepth(config=OmegaConf.create({"size": 4}))
    assert [data[i]["synsets"] for i in range(len(data))] == ["n01", "n01", "n03", "n03"]
    assert data[3]["class_label"] == 1
    assert data[0]["image"].shape == (20, 30, 3)
    assert "192 chosen classes have no image" in caplog.text
    assert [ImageNetValidationWithDepth(sub_indices="200")[0]["synsets"]] == ["n03"]


def test_another_folder_and_missing_depth(imagenet):
    data = ImageNetTrainWithDepth(root="elsewhere")
    other = ImageNetTrainWithDepth()
    assert data.get_depth_path(data.base_dset[0]) == "elsewhere/train/n01/n01_10.png"
    assert other[0]["depth"].shape == (20, 30)
    with pytest.raises(
        FileNotFoundError, match=r"imagenet\.ImageNetTrainWithDepth: .*n01_10\.png; scripts/extract_depth"
    ):
        data[0]


def test_depth_of_another_size(imagenet):
    save_depth(imagenet / "data/imagenet_depth/val/n01/n01_10.png", ramp(20, 29))
    with pytest.raises(ValueError, match=r"n01_10\.JPEG has 30 x 20 .*val/n01/n01_10\.png 29 x 20"):
        ImageNetValidationWithDepth(size=16)[0]
