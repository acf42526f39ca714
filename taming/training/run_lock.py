"""One training per run folder: a lock file that says who trains there, and holds nobody up after its run is killed.

Where the system has locks on files, the kernel drops them with their process, however that ends. Not every shared disk
passes them on to other machines, and some systems have none; there a training shows by the file's time that it lives.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from pytorch_lightning.utilities import rank_zero_only

from taming.files import remove_leftovers

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

LOCK_NAME = "training.lock"
HEARTBEAT = 10.0
"""Seconds between two signs of life of a training."""
PATIENCE = 60.0
"""Seconds without one after which a training of unknown state counts as dead; shared disks show changes late."""


class FolderInUseError(ValueError):
    """Another training writes into the run folder."""


@contextmanager
def sole_training(logdir: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Within the block no other training begins in `logdir`; the first process of a run holds the lock for all.

    The folder of a killed training is taken over, without its half-written files; if that one ran on another machine,
    it is watched for `patience` seconds first. Raises FolderInUseError if a training is under way there, OSError if
    nothing can be written.
    """
    if rank_zero_only.rank != 0:
        yield
        return
    path = logdir / LOCK_NAME
    file = _take(path, patience)
    identity = os.fstat(file.fileno())
    if fcntl is None:
        file.close()  # Windows removes no open file
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, ended), name="run lock", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        if _is_at(path, identity):  # else it was deleted, and may be another training's by now
            path.unlink(missing_ok=True)
        file.close()


def _take(path: Path, patience: float) -> TextIO:
    """The lock file, open, with this process as its owner."""
    while True:
        file = _open(path)
        try:
            if _claim(file, path, patience):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        advice = "make it writable, or continue in a copy of the folder that is"
        raise OSError(f"{path.parent}: nothing can be written here ({error.strerror}); {advice}") from error


def _claim(file: TextIO, path: Path, patience: float) -> bool:
    """Make this process the owner of the open lock file; False if its owner has just ended and removed it."""
    file.seek(0)
    owner = file.read().strip()
    try:
        locked = _lock(file)
    except (BlockingIOError, PermissionError):
        raise _in_use(path, owner) from None
    if not _is_at(path, os.fstat(file.fileno())):
        return False
    if owner:
        certainly_dead = locked and owner.split()[0] == socket.gethostname()
        if not certainly_dead and _lives(path, owner, patience):
            raise _in_use(path, owner)
        logger.warning("%s: the training of %s was killed; this one goes on in its folder", path.parent, owner)
        remove_leftovers(path.parent)
    file.truncate(0)
    file.write(f"{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%dT%H:%M:%S')}\n")
    file.flush()
    return True


def _lock(file: TextIO) -> bool:
    """Whether the kernel locked the file for this process, until it ends; False where there are no such locks.

    A lock of the process and not of the open file, which workers of a data loader would keep for a while after it.
    Raises BlockingIOError or PermissionError if another process has the lock.
    """
    if fcntl is None:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError:
        return False
    return True


def _lives(path: Path, owner: str, patience: float) -> bool:
    """Whether the lock file's owner gives a sign of life, or removes the file, within `patience` seconds."""
    logger.info("%s: watching for %.0f s whether the training of %s lives", path.parent, patience, owner)
    seen = _last_beat(path)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(min(1.0, patience))
        if _last_beat(path) != seen:
            return True
    return False


def _last_beat(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):  # a file server may be away for a while
            os.utime(path)


def _is_at(path: Path, identity: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), identity)
    except FileNotFoundError:
        return False


def _in_use(path: Path, owner: str) -> FolderInUseError:
    return FolderInUseError(
        f"{path.parent}: a training is under way in this folder ({owner or 'just begun'}); wait until it ends, "
        f"stop it, or start a new run from its checkpoint with --resume_from_checkpoint"
    )
