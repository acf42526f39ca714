"""Every image mode becomes the RGB it shows; every failure names dataset and file on one line."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from taming.data._io import read_list, read_npy, read_rgb
from taming.data.folder_scan import list_images

DATASET = "some.module.Dataset"


@pytest.fixture
def rgba():
    return np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)


def written(path, image, **options):
    image.save(path, **options)
    return path


def one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    assert type(error.value)(message).args == error.value.args
    for part in (DATASET, *map(str, parts)):
        assert part in message


@pytest.mark.parametrize(("mode", "bands"), [("RGB", 3), ("RGBA", 4), ("LA", 2), ("L", 1)])
def test_png_keeps_its_colours_and_loses_alpha(tmp_path, rgba, mode, bands):
    image = Image.fromarray(rgba[..., :bands].squeeze())
    assert image.mode == mode
    expected = rgba[..., :3] if bands >= 3 else np.repeat(rgba[..., :1], 3, axis=2)
    read = read_rgb(written(tmp_path / "x.png", image), DATASET)
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous


def test_premultiplied_gray_takes_the_first_band(tmp_path, rgba, monkeypatch):
    premultiplied = Image.frombytes("La", (5, 4), rgba[..., :2].tobytes())
    monkeypatch.setattr(Image, "open", lambda path: premultiplied)
    np.testing.assert_array_equal(read_rgb(tmp_path / "x", DATASET)[..., 2], rgba[..., 0])


def test_bilevel_is_black_and_white(tmp_path):
    bits = np.eye(3, dtype=bool)
    read = read_rgb(written(tmp_path / "x.png", Image.fromarray(bits)), DATASET)
    np.testing.assert_array_equal(read[..., 1], bits * 255)


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palette_shows_its_colours_even_where_transparent(tmp_path, transparency):
    indices = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    colours = np.array([[10, 20, 30], [200, 100, 0], [0, 0, 255]], dtype=np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    path = written(tmp_path / "x.png", image, **options)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(read_rgb(path, DATASET), colours[indices])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_as_pillow_converts_them(tmp_path, rgba, mode):
    suffix = "tif" if mode == "YCbCr" else "jpg"
    path = written(tmp_path / f"x.{suffix}", Image.fromarray(rgba[..., :3]).convert(mode))
    stored = Image.open(path)
    assert stored.mode == mode
    np.testing.assert_array_equal(read_rgb(path, DATASET), np.asarray(stored.convert("RGB")))


def test_16_bit_ramp_keeps_256_even_levels(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    levels = read_rgb(written(tmp_path / "x.png", Image.fromarray(ramp)), DATASET)[..., 0].ravel()
    assert (np.diff(levels.astype(int)) >= 0).all()
    assert np.unique(levels).size == 256
    assert (levels[0], levels[128], levels[129], levels[-1]) == (0, 0, 1, 255)


def test_32_bit_integers_are_clipped_to_16_bit(tmp_path):
    values = np.array([[-5, 0, 65535, 70000]], dtype=np.int32)
    levels = read_rgb(written(tmp_path / "x.tif", Image.fromarray(values)), DATASET)
    np.testing.assert_array_equal(levels[0, :, 0], [0, 0, 255, 255])


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 1.4, 254.6], [0, 1, 255])], ids=["unit", "byte"]
)
def test_float_image_by_its_range(tmp_path, values, expected):
    image = Image.fromarray(np.array([values], dtype=np.float32))
    np.testing.assert_array_equal(read_rgb(written(tmp_path / "x.tif", image), DATASET)[0, :, 0], expected)


@pytest.mark.parametrize("bad", [-0.1, 255.5, np.nan, np.inf])
def test_float_image_out_of_range(tmp_path, bad):
    path = written(tmp_path / "x.tif", Image.fromarray(np.array([[0.5, bad]], dtype=np.float32)))
    with pytest.raises(ValueError, match="float image") as error:
        read_rgb(path, DATASET)
    one_line(error, path)


def test_orientation_is_applied_only_on_request(tmp_path, rgba):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = written(tmp_path / "x.png", Image.fromarray(rgba[..., :3]), exif=exif)
    np.testing.assert_array_equal(read_rgb(path, DATASET), rgba[..., :3])
    np.testing.assert_array_equal(read_rgb(path, DATASET, exif=True), np.rot90(rgba[..., :3], -1))


def test_missing_image(tmp_path):
    with pytest.raises(FileNotFoundError, match="file not found") as error:
        read_rgb(tmp_path / "x.png", DATASET, hint="it is listed in a.txt")
    one_line(error, tmp_path / "x.png", "; it is listed in a.txt")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("keep", [0, 20, -100], ids=["empty", "header", "end missing"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_damaged_image(tmp_path, suffix, keep):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(OSError, match="cannot read image") as error:
        read_rgb(path, DATASET)
    one_line(error, path)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = written(tmp_path / "x.png", Image.new("L", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(OSError, match="decompression bomb") as error:
        read_rgb(path, DATASET)
    one_line(error, path)


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (3, 4, 5), (4, 5, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_npy_shapes_and_types(tmp_path, shape, dtype):
    stored = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    np.save(tmp_path / "x.npy", stored)
    expected = stored if shape[-1] == 3 else np.moveaxis(stored.reshape(3, 4, 5), 0, -1)
    read = read_npy(tmp_path / "x.npy", DATASET)
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == np.uint8


@pytest.mark.parametrize(
    "stored",
    [np.zeros((2, 3, 4, 5), int), np.zeros((4, 5), int), np.zeros((1, 4, 5, 3), int), np.zeros((3, 4, 5)),
     np.full((3, 4, 5), 256), np.full((3, 4, 5), -1), np.zeros((3, 0, 5), int)],
    ids=["two images", "gray", "batch of channels last", "float", "too large", "negative", "empty"],
)  # fmt: skip
def test_npy_with_other_content(tmp_path, stored):
    np.save(tmp_path / "x.npy", stored)
    with pytest.raises(ValueError, match="expected") as error:
        read_npy(tmp_path / "x.npy", DATASET)
    one_line(error, tmp_path / "x.npy", stored.shape, stored.dtype)


def test_npy_missing_or_damaged_or_pickled(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_npy(tmp_path / "x.npy", DATASET)
    one_line(error, tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(OSError, match="allow_pickle") as error:
        read_npy(tmp_path / "x.npy", DATASET)
    one_line(error, tmp_path / "x.npy")


@settings(max_examples=40)
@given(
    entries=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=6), max_size=6),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
)
def test_list_entries_survive_any_newline_bom_and_blank_lines(tmp_path_factory, entries, newline, bom):
    wanted = [entry.strip() for entry in entries if entry.strip()]
    path = tmp_path_factory.getbasetemp() / "list.txt"
    lines = newline.join(["", *(f"  {entry}\t{newline}" for entry in wanted), " "])
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + lines.encode())
    if wanted:
        assert read_list(path, DATASET) == wanted
    else:
        with pytest.raises(ValueError, match="is empty"):
            read_list(path, DATASET)


def test_list_missing_or_not_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a text file with one path per line") as error:
        read_list(tmp_path / "x.txt", DATASET)
    one_line(error, tmp_path / "x.txt")
    (tmp_path / "x.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="not UTF-8") as error:
        read_list(tmp_path / "x.txt", DATASET)
    one_line(error, tmp_path / "x.txt")


def test_folder_listing_order_suffixes_hidden_files_and_links(tmp_path):
    for name in ["b.PNG", "a/z.jpeg", "a.jpg", "a/.hidden.png", ".cache/x.png", "notes.txt", "a/b/c.WebP"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert list_images(tmp_path, DATASET) == ["a.jpg", "a/b/c.WebP", "a/z.jpeg", "b.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images") as error:
        list_images(tmp_path / "empty", DATASET)
    one_line(error, tmp_path / "empty", ".webp")
