"""Faster ways to the pixels: another decoder and a cache, which change none, and draft decoding, which does."""

import io
import os
import pickle
import random

import numpy as np
import pytest
from PIL import Image

from taming.data import _jpeg
from taming.data._io import FLOATS, read_rgb, to_float
from taming.data.base import ImagePaths, NumpyPaths
from taming.data.folder import FolderTrain

SIZE = 16


def smooth(width=150, height=131, seed=0):
    corners = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    smooth().save(path, quality=90)
    return str(path)


@pytest.fixture
def unreadable(monkeypatch):
    """After a call of this no image file can be read."""

    def forbid(*args, **kwargs):
        raise AssertionError("an image was read")

    return lambda: monkeypatch.setattr("taming.data.base.read_rgb", forbid)


def crops(dataset, count=5):
    random.seed(1)
    return np.stack([dataset[0]["image"] for _ in range(count)])


@pytest.mark.parametrize("options", [{}, {"random_crop": True}, {"draft": True}], ids=["centre", "random", "draft"])
def test_cached_images_are_the_same_and_need_no_file_read(tmp_path, photo, options, unreadable):
    plain = crops(ImagePaths([photo], size=SIZE, **options))
    first = ImagePaths([photo], size=SIZE, cache_dir=tmp_path / "cache", **options)
    np.testing.assert_array_equal(crops(first), plain)
    unreadable()
    again = pickle.loads(pickle.dumps(ImagePaths([photo], size=SIZE, cache_dir=tmp_path / "cache", **options)))
    np.testing.assert_array_equal(crops(again), plain)


def test_folders_are_cached_with_their_flips(tmp_path, photo, unreadable):
    smooth(seed=3).save(tmp_path / "second.jpg")
    plain = crops(FolderTrain(tmp_path, SIZE), 12)
    cached = FolderTrain(tmp_path, SIZE, cache_dir=tmp_path / ".cache")
    np.testing.assert_array_equal(crops(cached, 12), plain)
    unreadable()
    np.testing.assert_array_equal(crops(cached, 12), plain)


def test_arrays_are_cached(tmp_path, photo):
    np.save(tmp_path / "x.npy", np.moveaxis(np.asarray(Image.open(photo)), -1, 0))
    for _ in range(2):
        cached = NumpyPaths([tmp_path / "x.npy"], size=SIZE, cache_dir=tmp_path / "cache")
        np.testing.assert_array_equal(crops(cached), crops(ImagePaths([photo], size=SIZE)))


def test_a_changed_file_is_read_anew(tmp_path, photo):
    dataset = ImagePaths([photo], size=SIZE, cache_dir=tmp_path / "cache")
    before = crops(dataset)
    smooth(seed=1).save(photo)
    os.utime(photo, ns=(0, 0))
    assert not np.array_equal(crops(dataset), before)
    np.testing.assert_array_equal(crops(dataset), crops(ImagePaths([photo], size=SIZE)))


def test_other_settings_have_entries_of_their_own(tmp_path, photo):
    for options in ({"size": 8}, {"size": 9}, {"size": 9, "exif": True}, {"size": 9, "draft": True}):
        np.testing.assert_array_equal(
            ImagePaths([photo], cache_dir=tmp_path / "cache", **options)[0]["image"],
            ImagePaths([photo], **options)[0]["image"],
        )
    assert len(entries(tmp_path)) == 4


def entries(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("content", [b"", b"1234", b"\x10\x00\x00\x00\x10\x00\x00\x00 too few"])
def test_entries_that_are_not_whole_are_replaced(tmp_path, photo, content):
    dataset = ImagePaths([photo], size=SIZE, cache_dir=tmp_path / "cache")
    expected = crops(dataset)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(content)
    np.testing.assert_array_equal(crops(dataset), expected)
    assert entries(tmp_path) == [entry] and entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, photo, monkeypatch, caplog):
    dataset = ImagePaths([photo], size=SIZE, cache_dir=tmp_path / "cache", on_error="skip")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("taming.data.image_cache.os.makedirs", full)
    np.testing.assert_array_equal(crops(dataset), crops(ImagePaths([photo], size=SIZE)))
    assert [record.getMessage() for record in caplog.records] == [
        f"cache_dir {tmp_path / 'cache'} takes no more images: No space left on device"
    ]


def test_missing_images_are_reported_as_without_cache(tmp_path):
    with pytest.raises(FileNotFoundError, match="file not found"):
        ImagePaths([str(tmp_path / "x.jpg")], size=SIZE, cache_dir=tmp_path / "cache")[0]


def test_impossible_settings(tmp_path, photo):
    for options, name in (({"draft": True}, "draft"), ({"cache_dir": tmp_path / "cache"}, "cache_dir")):
        with pytest.raises(ValueError, match=f"{name} is for images that are scaled down, size is None"):
            ImagePaths([photo], **options)
    with pytest.raises(OSError, match=r"cache_dir .* no such folder can be made"):
        ImagePaths([photo], size=SIZE, cache_dir=photo)


@pytest.mark.parametrize(("size", "shrink"), [(131, 1), (66, 1), (65, 2), (32, 4), (16, 8), (3, 8)])
@pytest.mark.parametrize("same_decoder", [True, False])
def test_drafts_are_as_small_as_the_size_allows(photo, size, shrink, same_decoder, monkeypatch):
    monkeypatch.setattr(_jpeg, "_same_decoder", lambda: same_decoder)
    with Image.open(photo) as image:
        image.draft("RGB", (150 // shrink, 131 // shrink))
        expected = np.asarray(image)
    drafted = read_rgb(photo, "dataset", draft=size)
    assert drafted.shape == (-(-131 // shrink), -(-150 // shrink), 3) and min(drafted.shape[:2]) >= size
    np.testing.assert_array_equal(drafted, expected)


def test_drafts_show_nearly_the_same(photo, tmp_path):
    image, draft = (ImagePaths([photo], size=SIZE, draft=draft)[0]["image"] for draft in (False, True))
    assert 0 < np.abs(image - draft).mean() < 0.1
    smooth().save(tmp_path / "x.png")
    image, draft = (ImagePaths([tmp_path / "x.png"], size=SIZE, draft=draft)[0]["image"] for draft in (False, True))
    np.testing.assert_array_equal(image, draft)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def outcome(data):
    try:
        return read_rgb(io.BytesIO(data), "dataset", name="x.jpg")
    except OSError:
        return None


JPEGS = [
    encoded(smooth(60, 44), quality=80),
    encoded(smooth(61, 43), quality=95, subsampling=0),
    encoded(smooth(60, 44), progressive=True),
    encoded(smooth(60, 44), restart_marker_rows=1, subsampling=1),
]


@pytest.mark.parametrize("data", JPEGS, ids=["4:2:0", "4:4:4", "progressive", "restarts"])
def test_damaged_files_give_what_pillow_gives(data, monkeypatch):
    rng = np.random.default_rng(len(data))
    damaged = [data]
    for _ in range(60):
        copy = bytearray(data)
        for place in rng.integers(0, len(copy), 2):
            copy[place] = rng.integers(0, 256)
        begin = rng.integers(len(copy) // 2, len(copy))
        damaged += [bytes(copy), data[:begin], data[:begin] + data[begin + rng.integers(1, 60) :], data + data[:9]]
    fast = [outcome(content) for content in damaged]
    monkeypatch.setattr(_jpeg, "_same_decoder", lambda: False)
    for content, ours in zip(damaged, fast, strict=True):
        np.testing.assert_array_equal(ours, outcome(content))
    assert fast[0] is not None and sum(found is None for found in fast) > 30


def test_a_thumbnail_in_the_header_is_no_end_of_the_image(tmp_path):
    thumbnail = encoded(smooth(8, 8))
    data = JPEGS[0]
    segment = b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    (tmp_path / "x.jpg").write_bytes(data[:2] + segment + data[2:])
    with Image.open(tmp_path / "x.jpg") as image:
        assert (_jpeg.decode(image) is None) == (not _jpeg._same_decoder())
        np.testing.assert_array_equal(read_rgb(tmp_path / "x.jpg", "dataset"), np.asarray(image))


def test_orientation_counts_only_where_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth(20, 30).save(tmp_path / "x.jpg", exif=exif)
    stored = read_rgb(tmp_path / "x.jpg", "dataset")
    np.testing.assert_array_equal(stored, np.asarray(Image.open(tmp_path / "x.jpg")))
    np.testing.assert_array_equal(read_rgb(tmp_path / "x.jpg", "dataset", exif=True), np.rot90(stored, -1))
    assert read_rgb(tmp_path / "x.jpg", "dataset", exif=True, draft=10).shape == (10, 15, 3)


def test_floats_by_table_are_those_by_formula():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for view in (pixels, pixels[:, 2:9], pixels[::2], pixels.transpose(1, 0, 2)):
        expected = (view.astype(np.float64) / 127.5 - 1.0).astype(np.float32)
        np.testing.assert_array_equal(to_float(view), expected)
        np.testing.assert_array_equal(to_float(view.astype(np.float32)), expected)
    assert FLOATS[0] == -1 and FLOATS[-1] == 1
