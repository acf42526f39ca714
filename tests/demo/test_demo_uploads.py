"""Uploaded files: what can be used is used, everything else is one line."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from taming.data.depth_maps import depth_to_rgba
from taming.demo import uploads


def gradient(height=20, width=30):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 8, rows * 12, np.full_like(rows, 60)], axis=2).astype(np.uint8)


def file(image, format="PNG", **options):
    buffer = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format=format, **options)
    return buffer.getvalue()


def frames(format):
    first, second = Image.fromarray(gradient()), Image.fromarray(255 - gradient())
    return file(first, format, save_all=True, append_images=[second])


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_every_format(format):
    image = uploads.read_picture("a.file", file(gradient(), format), 10)
    assert image.shape == (10, 15, 3) and image.dtype == np.float32
    assert -1 <= image.min() < -0.5 < 0.5 < image.max() <= 1


def test_size_is_kept_where_it_is_right():
    assert np.allclose(uploads.read_picture("a.png", file(gradient()), 20), gradient() / 127.5 - 1, atol=1e-6)


def test_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    content = file(gradient(), "JPEG", exif=exif)
    assert uploads.read_picture("a.jpg", content, 20).shape == (30, 20, 3)


def test_large_photographs_are_averaged():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    assert uploads.read_picture("noise.png", file(noise), 10).std() < 0.05


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
UNUSABLE = {
    "empty": (b"", "a.png: this is no image"),
    "no more than a beginning": (b"GIF89a", "a.png"),
    "document": (b"%PDF-1.7 something else altogether", "upload BMP, GIF, JPEG, PNG, TIFF, WEBP"),
    "half a PNG": (file(NOISE)[:2000], "cannot read image a.png"),
    "half a JPEG": (file(NOISE, "JPEG")[:1500], "cannot read image a.png"),
    "animated GIF": (frames("GIF"), "has 2 frames or pages"),
    "animated PNG": (frames("PNG"), "has 2 frames or pages"),
    "animated WebP": (frames("WEBP"), "has 2 frames or pages"),
    "two pages": (frames("TIFF"), "has 2 frames or pages"),
    "strip": (file(gradient(4, 40)), "40 x 4 pixels are a strip"),
    "large": (file(Image.new("1", (8000, 7000))), "8000 x 7000 pixels are too many"),
    "bomb": (file(Image.new("1", (20000, 20000))), "too many"),
    "many bytes": (bytes(uploads.MAX_BYTES + 2**20), "21 MB are too many, at most 20"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_used_is_one_line(kind):
    content, message = UNUSABLE[kind]
    with pytest.raises((ValueError, OSError), match=message) as caught:
        uploads.read_picture("a.png", content, 16)
    assert "\n" not in str(caught.value) and "BytesIO" not in str(caught.value) and "0x" not in str(caught.value)


def test_phones_that_put_more_views_behind_a_photograph():
    content = frames("MPO")
    assert uploads.read_picture("phone.jpg", content, 20).shape == (20, 30, 3)


def test_label_map():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(4, axis=0).repeat(4, axis=1)
    found = uploads.read_map("map.png", file(labels), 4, key="segmentation", n_channels=9)
    assert found.shape == (4, 6, 9) and found.dtype == np.float32 and np.array_equal(found.sum(axis=2), np.ones((4, 6)))
    assert np.array_equal(found.argmax(axis=2)[::2, ::2], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("image", "key", "n_channels", "message"),
    [
        (gradient(), "segmentation", 9, "map.png has mode RGB"),
        (np.full((16, 16), 9, np.uint8), "segmentation", 9, "map.png has labels 9 where n_labels=9"),
        (gradient(), "depth", 1, "depth map map.png has mode RGB; expected floats coded as RGBA, .*or grey values"),
        (depth_to_rgba(np.full((16, 16), np.nan, np.float32)), "depth", 1, "map.png holds values that are no finite"),
    ],
)
def test_wrong_maps(image, key, n_channels, message):
    with pytest.raises(ValueError, match=message):
        uploads.read_map("map.png", file(image), 16, key=key, n_channels=n_channels)


def test_depth_maps_are_scaled_when_they_are_in_their_range():
    depth = np.linspace(100, 200, 32 * 48, dtype=np.float32).reshape(32, 48)
    for image in (depth_to_rgba(depth), depth.astype(np.uint8)):
        found = uploads.read_map("depth.png", file(image), 16, key="depth", n_channels=1)
        assert found.shape == (16, 24, 1) and np.allclose(found[::15, ::23, 0], [[-1, -1], [1, 1]], atol=0.12)


def test_other_conditioning_is_an_image():
    found = uploads.read_map("edges.png", file(gradient()), 20, key="depth", n_channels=3)
    assert np.allclose(found, gradient() / 127.5 - 1, atol=1e-6)


def test_cutting_takes_the_middle_and_covers():
    image = np.arange(12, dtype=np.float32).reshape(2, 6, 1).repeat(10, axis=0).repeat(10, axis=1)
    cut = uploads.cut_to(image, 20, 20)
    assert cut.shape[:2] == (20, 20) and np.array_equal(np.unique(cut), [2, 3, 8, 9])
    assert uploads.cut_to(image, 40, 30).shape[:2] == (40, 30)
    assert uploads.cut_to(image, 7, 21).shape[:2] == (7, 21)


def test_a_layout():
    (item,) = uploads.read_layout("mine.json", b'{"objects": [{"class": "tree", "box": [0, 0, 1, 0.5]}]}').objects
    assert item.category == "tree" and item.place == (0, 0, 1, 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "mine.json is not valid JSON"),
        (b"\x89PNG\r\n", "mine.json is not valid JSON"),
        (b"[" * 200_000, "mine.json is not valid JSON"),
        (b"[1, 2]", "mine.json holds no JSON object but a list"),
        (b"{}", "mine.json: expected a list of at least one object"),
        (b'{"objects": [{"class": "tree", "box": [0, 0, 2, 1]}]}', r"mine.json: objects\[0\]: box is \[0, 0, 2, 1\]"),
        (b'{"objects": ["' + b"x" * 10**5 + b'"]}', r"mine.json: objects\[0\]: expected an object with"),
        (b" " * (uploads.MAX_LAYOUT_BYTES + 1), "1048577 bytes are too many for a layout"),
    ],
    ids=["empty", "a picture", "deep", "a list", "nothing in it", "pixels", "long", "large"],
)
def test_wrong_layouts_are_one_short_line(content, message):
    with pytest.raises(ValueError, match=message) as caught:
        uploads.read_layout("mine.json", content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
