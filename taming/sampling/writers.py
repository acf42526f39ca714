"""What jobs write: PNG files in the background, one archive of them all, and what to say when it cannot go on."""

import errno
import logging
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from taming.files import atomic_path
from taming.images import save_png

logger = logging.getLogger(__name__)

PENDING_WRITES = 256
WRITER_THREADS = 4
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
"""As tqdm's own, but always images/s, also below one."""

Write = Callable[[Path, np.ndarray], None]


@contextmanager
def output(folder: Path, total: int, *, progress: bool = True) -> Iterator[tuple[Write, tqdm]]:
    """A function that writes an image in the background, and a progress bar for `total` of them.

    All images are written when the block ends, also by an exception. A full disk is an OSError that says what to do.
    """
    bar = tqdm(total=total, desc="sampling", unit=" images", bar_format=BAR, disable=not progress)
    with explained(folder), bar, background_writer() as write:
        yield write, bar


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Say what a full disk or Ctrl-C in the block means for the job of this folder."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("interrupted; what is finished stays in %s, and the same command goes on from there", folder)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"{folder}: the disk is full; what is finished stays there, make room and run the same command again"
        ) from error


@contextmanager
def background_writer() -> Iterator[Write]:
    """A function that writes an image in the background. All are written when the block ends, also by an exception.

    An error of writing is raised by a later call, or at the end.
    """
    futures: deque[Future] = deque()
    with ThreadPoolExecutor(WRITER_THREADS) as pool:

        def write(path: Path, image: np.ndarray) -> None:
            if len(futures) >= PENDING_WRITES:
                futures.popleft().result()
            futures.append(pool.submit(save_png, path, image))

        yield write
        for future in futures:
            future.result()


def remove_leftovers(folder: Path, owned: Iterable[Path]) -> None:
    """Remove what a killed process left half-written below `folder` of the files `owned` by this process."""
    leftovers: dict[Path, list[Path]] = {}
    for part in folder.rglob(".*.part"):  # .<name>.<process>.part, see atomic_path
        leftovers.setdefault(part.with_name(part.name[1:].rsplit(".", 2)[0]), []).append(part)
    if leftovers:
        for path in owned:
            for part in leftovers.get(path, ()):
                part.unlink(missing_ok=True)


def write_npz(path: Path, files: Sequence[Path], labels: Sequence[int] | None = None) -> None:
    """Gather PNG files of one size into an .npz as FID tools read it, in their order; it appears when it is complete.

    arr_0 are the images, uint8 (n, h, w, 3), and arr_1 the labels, int64 (n,), if there are any. Only a few images are
    in memory at a time. Raises ValueError for images of several sizes.
    """
    first = _read(files[0])
    with explained(path), atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *first.shape)}
            np.lib.format.write_array_header_1_0(stream, header)
            for file, image in zip(files, _read_all(files), strict=True):
                if image.shape != first.shape:
                    raise ValueError(
                        f"{file}: is {image.shape}, but {files[0]} is {first.shape}; an archive needs one size"
                    )
                stream.write(image.tobytes())
        if labels is not None:
            with archive.open("arr_1.npy", "w") as stream:
                np.lib.format.write_array(stream, np.asarray(labels, dtype=np.int64))


def _read_all(files: Sequence[Path]) -> Iterator[np.ndarray]:
    with ThreadPoolExecutor(WRITER_THREADS) as pool:
        for start in range(0, len(files), PENDING_WRITES):
            yield from pool.map(_read, files[start : start + PENDING_WRITES])


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
