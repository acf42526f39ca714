"""Reference images by the published rule."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from taming.evaluation.reference_images import center_bilinear, prepare


def test_the_largest_centre_square_is_shrunk_with_anti_aliasing():
    image = np.zeros((6, 11, 3), dtype=np.uint8)
    image[:, 2:8] = np.random.default_rng(0).integers(0, 256, (6, 6, 3))
    expected = Image.fromarray(image[:, 2:8]).resize((3, 3), Image.Resampling.BILINEAR)
    assert np.array_equal(center_bilinear(image, 3), np.asarray(expected))
    tall = np.moveaxis(image, 1, 0)
    assert np.array_equal(center_bilinear(tall, 6), tall[2:8])
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert abs(center_bilinear(stripes, 16).astype(int) - 127).max() <= 10, "no stripe is left out"


def test_folders_are_kept_and_finished_files_skipped(image_folder, tmp_path):
    out = tmp_path / "out"
    (image_folder / "left" / "0.png").rename(image_folder / "left" / "first.png")
    record = prepare(image_folder, out, size=20, progress=False)
    assert record["images"] == 12 and json.loads((out / "prepared.json").read_text())["mode"] == "center-bilinear"
    written = sorted(out.rglob("*.png"))
    assert {path.relative_to(out) for path in written} == {
        path.relative_to(image_folder) for path in image_folder.rglob("*.png")
    }
    assert {Image.open(path).size for path in written} == {(20, 20)}
    content = written[0].read_bytes()
    os.utime(written[1], (1, 1))
    written[0].unlink()
    prepare(image_folder, out, size=20, progress=False)
    assert written[0].read_bytes() == content and written[1].stat().st_mtime == 1


def test_mistakes(image_folder, tmp_path):
    prepare(image_folder, tmp_path / "out", size=20, progress=False)
    with pytest.raises(ValueError, match=r"prepared.json: the images there were made with size=20, not 24"):
        prepare(image_folder, tmp_path / "out", size=24, progress=False)
    with pytest.raises(ValueError, match="--mode lanczos: expected one of center-bilinear"):
        prepare(image_folder, tmp_path / "new", mode="lanczos")
    with pytest.raises(ValueError, match="--size 0"):
        prepare(image_folder, tmp_path / "new", size=0)
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        prepare(tmp_path / "gone", tmp_path / "new")
    Image.new("RGB", (30, 30)).save(image_folder / "left" / "2.jpg")
    with pytest.raises(ValueError, match=r"2.jpg and left/2.png would both become"):
        prepare(image_folder, tmp_path / "new")
    (tmp_path / "out" / "prepared.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        prepare(image_folder / "right", tmp_path / "out", size=20)
