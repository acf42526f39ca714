"""Images between [-1, 1] and bytes, grids, and files that are complete or absent."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from taming.files import atomic_path
from taming.images import displayable, from_uint8, image_grid, labelled_grid, save_png, text_picture, to_uint8


@pytest.mark.parametrize(
    ("value", "byte"), [(-1, 0), (-1.5, 0), (1, 255), (7, 255), (0, 127), (0.0040, 128), (0.0038, 127), (0.9999, 254)]
)
def test_bytes_are_clipped_and_truncated(value, byte):
    assert to_uint8(torch.full((3, 1, 1), value)).tolist() == [[[byte] * 3]]


@given(st.integers(0, 255))
def test_bytes_come_back(byte):
    array = np.full((2, 1, 1, 3), byte, dtype=np.uint8)
    x = from_uint8(array)
    assert x.shape == (2, 3, 1, 1) and x.abs().max() <= 1
    assert np.abs(to_uint8(x).astype(int) - byte).max() <= 1  # truncation may lose a rounding error
    assert np.array_equal(to_uint8(x + 1e-5), array)


def test_channels_go_last_and_gradients_are_left_behind():
    x = torch.linspace(-0.9, 0.95, 2 * 3 * 4 * 5, requires_grad=True).view(2, 3, 4, 5)
    array = to_uint8(x)
    assert array.shape == (2, 4, 5, 3) and array.dtype == np.uint8
    assert array[1, 3, 2, 0] == int((x[1, 0, 3, 2].item() + 1) * 127.5)


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (3, 3), (2, 1), (4, 3), (7, 3)])
def test_displayable_channels(channels, shown, caplog):
    caplog.set_level(logging.INFO, logger="taming")
    images = torch.rand(2, channels, 4, 4)
    assert torch.equal(displayable(images), images[:, :shown])
    assert (f"first {shown} of {channels} channels" in caplog.text) == (channels != shown)


def test_grid_fills_rows():
    images = torch.linspace(-1, 1, 3).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    grid = image_grid(images, nrow=2)
    assert grid.shape == (14, 14, 3)
    assert [grid[y, x, 0] for y, x in [(3, 3), (3, 9), (9, 3), (0, 0)]] == [0, 127, 255, 127]


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_png_is_lossless_and_alone(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    save_png(tmp_path / "a.png", array)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        assert (tmp_path / "a.txt").read_text() == "old"
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_labelled_grid_holds_enlarged_images_on_white():
    rows = {"zero": torch.full((2, 3, 4, 4), -1.0), "a longer label": torch.full((3, 3, 4, 4), 0.0)}
    grid = labelled_grid(rows, columns=("x",), min_tile=32, padding=4)
    assert (grid[0] == 255).all() and (grid[-1] == 255).all()
    # At the right of the labels: two black tiles of 32 x 32 pixels and none below the third column, then three grey.
    tiles = grid[:, -3 * 36 :]
    assert (tiles == 127).all(axis=-1).sum() >= 3 * 32 * 32
    assert (grid[:, -36:] == 0).all(axis=-1).sum() == 0
    assert 2 * 32 * 32 <= (tiles == 0).all(axis=-1).sum() < 2.2 * 32 * 32


def test_labelled_grid_needs_one_size():
    with pytest.raises(ValueError, match="images of one size"):
        labelled_grid({"a": torch.zeros(1, 3, 4, 4), "b": torch.zeros(1, 3, 4, 8)})


def test_labelled_grid_needs_a_column_per_title():
    with pytest.raises(ValueError, match="2 column titles has only 1 columns"):
        labelled_grid({"a": torch.zeros(1, 3, 4, 4)}, columns=("x", "y"))


def test_text_is_wrapped_and_stays_within_its_picture():
    short, long, longer = (text_picture("a heath " * n, side=128) for n in (1, 8, 400))
    ink = [np.flatnonzero((picture < 128).any(axis=(1, 2))) for picture in (short, long, longer)]
    assert all(picture.shape == (128, 128, 3) and (picture[:, -4:] == 255).all() for picture in (short, long, longer))
    assert ink[0].max() < 24 and ink[1].max() > 40, "one line, several"
    assert ink[2].max() < 126 and (text_picture("", side=64) == 255).all()
