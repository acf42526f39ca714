"""Where pictures go while they come about: a PNG file that knows how it was made, its stages, and a video of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from taming.clip.guided import Step
from taming.files import atomic_path
from taming.images import save_png, to_uint8
from taming.video import ffmpeg_package, video_writer

MAX_FPS = 60.0


@dataclass
class Pictures:
    """The file `path` (PNG) of the latest picture, written every `save_every` steps, with `metadata` in it; with
    `video` also <stem>_steps/0050.png and so on.

    Raises ValueError for another suffix or numbers out of range, FileNotFoundError for no folder, ImportError if videos
    cannot be made.
    """

    path: Path
    metadata: Mapping[str, object]
    save_every: int = 50
    video: bool = False
    frames: list[Path] = field(default_factory=list)
    _latest: Step | None = None
    _saved: int = 0

    def __post_init__(self) -> None:
        if self.path.suffix.lower() != ".png":
            raise ValueError(f"--output {self.path}: expected a name that ends in .png, which can hold the prompts")
        if not self.path.absolute().parent.is_dir():
            raise FileNotFoundError(f"--output {self.path}: there is no folder {self.path.parent}, make it first")
        if self.save_every < 1:
            raise ValueError(f"--save_every {self.save_every}: expected at least one step")
        if self.video:
            ffmpeg_package()

    def follow(self, step: Step) -> None:
        """Take note of a step, and write its picture if it is time."""
        self._latest = step
        if step.iteration % self.save_every == 0:
            self._save(step)

    def finish(self) -> None:
        """Write the picture of the latest step, if it is not there yet."""
        if self._latest is not None and self._latest.iteration != self._saved:
            self._save(self._latest)

    def _save(self, step: Step) -> None:
        pixels = to_uint8(step.image())[0]
        save_with_text(self.path, pixels, {**self.metadata, "iteration": step.iteration})
        self._saved = step.iteration
        if self.video:
            frame = self.path.with_name(f"{self.path.stem}_steps") / f"{step.iteration:04}.png"
            frame.parent.mkdir(exist_ok=True)
            save_png(frame, pixels)
            self.frames.append(frame)

    def write_video(self, *, length: float, fps: float | None = None) -> Path:
        """<stem>.mp4 of the frames, `length` seconds long unless the frames per second are given."""
        path = self.path.with_suffix(".mp4")
        with video_writer(path, fps=fps or min(MAX_FPS, len(self.frames) / length)) as write:
            for frame in self.frames:
                write(np.asarray(Image.open(frame).convert("RGB")))
        return path


def save_with_text(path: Path, array: np.ndarray, text: Mapping[str, object]) -> None:
    """Write uint8 (h, w, 3) as a PNG file with text chunks; what is no string is written as JSON."""
    info = PngInfo()
    for key, value in text.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value, default=str))
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary, format="PNG", pnginfo=info)
