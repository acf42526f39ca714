"""Images kept on disk as they are after decoding and rescaling, which is most of the work of reading them."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from taming.files import atomic_path

logger = logging.getLogger(__name__)

VERSION = 1
HEADER = np.dtype("<u4")
"""Height and width, before the pixels."""
HEADER_SIZE = 2 * HEADER.itemsize


class ImageCache:
    """Pixels, uint8 (H, W, 3), of image files, one file each in `folder`, which is made if missing.

    `settings` says what was done to an image besides reading it. A file that is written to, moved or read with other
    settings gets a new entry; old entries stay until the folder is deleted. Several processes may share the folder.
    What cannot be written, as on a full disk, is not kept. Raises OSError if the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike, settings: str) -> None:
        self.folder = Path(folder)
        self.settings = f"{settings} {VERSION}"
        self.writable = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cache_dir {folder}: no such folder can be made: {error.strerror}") from error

    def get(self, path: str | os.PathLike, make: Callable[[str | os.PathLike], np.ndarray]) -> np.ndarray:
        """The pixels of an image file; `make(path)` if they are not there yet."""
        entry = self._entry(path)
        pixels = None if entry is None else _read(entry)
        if pixels is None:
            pixels = make(path)
            if entry is not None and self.writable:
                self._write(entry, pixels)
        return pixels

    def _entry(self, path: str | os.PathLike) -> str | None:
        """Where the pixels are or will be, None for a file that is not there."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        identity = "\0".join((os.path.abspath(path), str(status.st_mtime_ns), str(status.st_size), self.settings))
        digest = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
        return os.path.join(self.folder, digest[:2], digest[2:])

    def _write(self, entry: str, pixels: np.ndarray) -> None:
        try:
            os.makedirs(os.path.dirname(entry), exist_ok=True)
            with atomic_path(entry) as temporary, open(temporary, "wb") as file:
                file.write(np.array(pixels.shape[:2], HEADER).tobytes())
                file.write(np.ascontiguousarray(pixels).tobytes())
        except OSError as error:
            self.writable = False
            logger.warning("cache_dir %s takes no more images: %s", self.folder, error.strerror)


def _read(entry: str) -> np.ndarray | None:
    """The pixels of an entry; None if there is none, or none that is whole."""
    try:
        content = np.fromfile(entry, np.uint8)
    except OSError:
        return None
    if content.size < HEADER_SIZE:
        return None
    height, width = content[:HEADER_SIZE].view(HEADER)
    pixels = content[HEADER_SIZE:]
    return pixels.reshape(height, width, 3) if pixels.size == int(height) * int(width) * 3 else None
