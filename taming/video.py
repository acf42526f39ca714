"""MP4 files from frames, by the ffmpeg that the package imageio-ffmpeg brings."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from taming.files import atomic_path


@contextmanager
def video_writer(path: str | os.PathLike, *, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a frame, uint8 (h, w, 3), all of one size, to the MP4 (H.264) at `path`.

    The file appears when the block ends, and does not if it raises. H.264 as players know it needs even sides: the last
    row and column of others are repeated. Raises ImportError without the package, ValueError if there is no frame.
    """
    ffmpeg = _package()
    writer = None

    def write(frame: np.ndarray) -> None:
        nonlocal writer
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if writer is None:
            size = frame.shape[1::-1]  # width first
            writer = ffmpeg.write_frames(str(temporary), size, fps=fps, macro_block_size=1, output_params=["-f", "mp4"])
            writer.send(None)
        writer.send(np.ascontiguousarray(frame))

    with atomic_path(path) as temporary:
        try:
            yield write
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ValueError(f"{path}: a video needs at least one frame")


def _package() -> ModuleType:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("videos need a package: pip install 'taming-transformers[app]' (imageio-ffmpeg)") from error
    return imageio_ffmpeg
