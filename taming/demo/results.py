"""What a run of the sampler leaves in the page: a picture, perhaps a video, and how it was made."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from taming.files import atomic_path
from taming.images import enlarged
from taming.video import video_writer

VIDEO = "sampling.mp4"
FPS = 25
SHOWN_SIDE = 256
"""Smaller images are enlarged for the screen."""

_publishing = threading.Lock()


@dataclass(frozen=True)
class Result:
    """The picture uint8 (h, w, 3), finished or not, of n_done of n_total tokens; `title` says of what.

    video is the MP4's content, written to video_path.
    """

    image: np.ndarray
    title: str
    seed: int
    seconds: float
    n_done: int
    n_total: int
    video: bytes | None = None
    video_path: Path | None = None

    @property
    def is_finished(self) -> bool:
        return self.n_done == self.n_total

    def caption(self) -> str:
        """One line about how it was made."""
        state = "" if self.is_finished else f", stopped after {self.n_done} of {self.n_total} tokens"
        return f"{self.title}, seed {self.seed}, {self.seconds:.1f} seconds{state}"


def for_screen(image: np.ndarray) -> np.ndarray:
    """An image uint8 (h, w, 3), enlarged if it is small."""
    return enlarged(image, SHOWN_SIDE)


def png(image: np.ndarray) -> bytes:
    """A PNG file of an image uint8 (h, w, 3)."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def animation(folder: Path | None) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a frame to `sampling.mp4` in `folder`, or does nothing without one.

    The video appears when the block ends, and does not if it raises. Raises ImportError without the package for it.
    """
    if folder is None:
        yield lambda frame: None
        return
    with video_writer(folder / VIDEO, fps=FPS) as write:
        yield write


def published(video: Path) -> Path:
    """Copy a video to the current folder; its path there, or the one it has where that folder may not be written to."""
    target = Path.cwd() / video.name
    try:
        with _publishing, atomic_path(target) as temporary:  # sessions share the process, and so temporary names
            shutil.copyfile(video, temporary)
    except OSError:
        return video
    return target
