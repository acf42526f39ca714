"""Pictures and videos that a run leaves."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from taming.demo.results import Result, animation, for_screen, png, published

IMAGE = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)


def test_png_is_lossless():
    assert np.array_equal(np.asarray(Image.open(BytesIO(png(IMAGE)))), IMAGE)


def test_small_images_are_enlarged_by_a_whole_factor():
    large = for_screen(IMAGE)
    assert large.shape == (15 * 18, 20 * 18, 3) and np.array_equal(large[::18, ::18], IMAGE)
    assert for_screen(large) is not None and for_screen(large).shape == large.shape


def test_captions():
    result = Result(IMAGE, "validation, example 3", 17, 2.04, n_done=16, n_total=16)
    assert result.is_finished and result.caption() == "validation, example 3, seed 17, 2.0 seconds"
    stopped = Result(IMAGE, "a.png", 17, 2.04, n_done=4, n_total=16)
    assert stopped.caption().endswith("stopped after 4 of 16 tokens")


def test_a_video_of_odd_sides(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="the extra app brings it")
    with animation(tmp_path) as add_frame:
        for _ in range(3):
            add_frame(IMAGE)
    content = (tmp_path / "sampling.mp4").read_bytes()
    assert content[4:8] == b"ftyp" and [path.name for path in tmp_path.iterdir()] == ["sampling.mp4"]


def test_nothing_is_left_of_a_video_that_was_stopped(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="the extra app brings it")
    with pytest.raises(KeyboardInterrupt), animation(tmp_path) as add_frame:
        add_frame(IMAGE)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_videos_go_to_the_current_folder_if_that_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "session").mkdir()
    video = tmp_path / "session" / "sampling.mp4"
    video.write_bytes(b"video")
    monkeypatch.chdir(tmp_path)
    assert published(video) == tmp_path / "sampling.mp4" and (tmp_path / "sampling.mp4").read_bytes() == b"video"

    def fails(*paths):
        raise PermissionError("read-only")

    monkeypatch.setattr("taming.demo.results.shutil.copyfile", fails)
    assert published(video) == video
