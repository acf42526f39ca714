"""MP4 files from frames."""

import sys

import numpy as np
import pytest

from taming.video import video_writer


def frames(count, height=16, width=24):
    rows, columns = np.mgrid[:height, :width]
    return [np.stack([rows * 4 + 20 * i, columns * 4, rows + columns], axis=-1).astype(np.uint8) for i in range(count)]


def read(path):
    """Frames of a file, uint8 (n, h, w, 3), and its rate."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    stream = ffmpeg.read_frames(str(path))
    facts = next(stream)
    width, height = facts["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in stream]), facts["fps"]


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 25)])
def test_frames_in_their_order_on_even_sides(tmp_path, height, width):
    pytest.importorskip("imageio_ffmpeg")
    written = frames(4, height, width)
    with video_writer(tmp_path / "v.mp4", fps=5) as write:
        for frame in written:
            write(frame)
    shown, fps = read(tmp_path / "v.mp4")
    assert shown.shape == (4, height + height % 2, width + width % 2, 3) and fps == 5
    brightness = shown[..., 0].mean(axis=(1, 2))
    assert np.allclose(brightness, [frame[..., 0].mean() for frame in written], atol=12)
    assert (np.diff(brightness) > 10).all()


def test_an_interrupted_video_is_not_there(tmp_path):
    pytest.importorskip("imageio_ffmpeg")

    def interrupted():
        with video_writer(tmp_path / "v.mp4", fps=5) as write:
            write(frames(1)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_no_frames(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(ValueError, match="a video needs at least one frame"), video_writer(tmp_path / "v.mp4", fps=5):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    message = r"pip install 'taming-transformers\[app\]'"
    with pytest.raises(ImportError, match=message), video_writer(tmp_path / "v.mp4", fps=5):
        pass
