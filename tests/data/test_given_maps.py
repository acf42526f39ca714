"""Label maps and depth maps that people hand over."""

import numpy as np
import pytest
from PIL import Image

from taming.data.depth_maps import save_depth
from taming.data.given_maps import read_depth_map, read_label_map

DEPTH = np.linspace(100, 200, 16 * 24, dtype=np.float32).reshape(16, 24)


def test_labels_of_coco_are_shifted(tmp_path):
    """Decision Q6.7: 255, unlabelled, is 0, for models of 183 labels only."""
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 181], [255, 90]], np.uint8)).save(path)
    assert read_label_map(path, 183, "a test").argmax(axis=-1).tolist() == [[1, 182], [0, 91]]
    with pytest.raises(ValueError, match=r"m.png has labels 255 where n_labels=182"):
        read_label_map(path, 182, "a test")


def test_labels_are_resized_before_they_are_coded(tmp_path):
    Image.fromarray(np.array([[0, 1], [2, 77]], np.uint8)).save(tmp_path / "m.png")
    coded = read_label_map(tmp_path / "m.png", 3, "a test", resized=lambda labels: labels[:1])
    assert coded.dtype == np.float32 and coded.tolist() == [[[1, 0, 0], [0, 1, 0]]]


@pytest.mark.parametrize(("kind", "step"), [("floats", 1e-6), ("8 bits", 0.02), ("16 bits", 1e-3)])
def test_depth_of_every_form_is_the_same_in_the_end(tmp_path, kind, step):
    path = tmp_path / "d.png"
    if kind == "floats":
        save_depth(path, DEPTH)
    else:
        Image.fromarray(DEPTH.astype(np.uint8) if kind == "8 bits" else (DEPTH * 100).astype(np.uint16)).save(path)
    depth = read_depth_map(path, "a test")
    assert depth.dtype == np.float32 and np.allclose(depth, (DEPTH - 100) / 50 - 1, atol=step)
    assert depth.min() == -1 and depth.max() == 1


def test_pictures_are_no_depth(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r"a test: depth map .*d.png has mode RGB; .* or grey values"):
        read_depth_map(tmp_path / "d.png", "a test")
