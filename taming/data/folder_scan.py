"""Finding the images below a folder, without reading again the folders that have not changed."""

import json
import logging
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from taming.files import atomic_path

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SETTLED = 2_000_000_000
"""Nanoseconds: a folder that changed less than this before it was read may change again without a new time stamp."""
VERSION = 1


@dataclass(frozen=True)
class Listing:
    """What one folder holds, without what is hidden: its folders and its images, by name, sorted."""

    folders: list[str]
    images: list[str]


def list_images(folder: str | os.PathLike, dataset: str, scan_cache: str | os.PathLike | None = None) -> list[str]:
    """Sorted paths (relative, with `/`) of all images below `folder`; hidden files and folders are skipped.

    `scan_cache`, a JSON file that is made if missing, keeps what the folders hold: the next scan reads only those whose
    time of modification is another. Raises ValueError where there is no image, and where `scan_cache` is a file of
    another kind.
    """
    known = {} if scan_cache is None else _load(Path(scan_cache), dataset)
    found, read = _scan(folder, IMAGE_SUFFIXES, known)
    if not found:
        raise ValueError(f"{dataset}: no images below {folder}; looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    if scan_cache is not None and read != known:
        _save(Path(scan_cache), read)
    return found


def list_files(folder: str | os.PathLike, suffixes: Collection[str]) -> list[str]:
    """Sorted paths (relative, with `/`) of all files with one of these suffixes below `folder`, without hidden ones."""
    return _scan(folder, suffixes, {})[0]


def _scan(
    folder: str | os.PathLike, suffixes: Collection[str], known: Mapping[str, tuple[int, Listing]]
) -> tuple[list[str], dict[str, tuple[int, Listing]]]:
    """Sorted paths below `folder`, and what every folder holds. Linked folders are followed, but none is read twice."""
    found: list[str] = []
    read: dict[str, tuple[int, Listing]] = {}
    seen: set[str] = set()
    pending = [(os.fspath(folder), "")]
    while pending:
        parent, prefix = pending.pop()
        real = os.path.realpath(parent)
        if real in seen:
            continue
        seen.add(real)
        changed, listing = _listing(parent, suffixes, known.get(real))
        if listing is None:
            continue
        read[real] = changed, listing
        found += [f"{prefix}{name}" for name in listing.images]
        # The last one is taken first: folders are entered in the order of their names.
        pending += [(os.path.join(parent, name), f"{prefix}{name}/") for name in reversed(listing.folders)]
    return sorted(found), read


def _listing(folder: str, suffixes: Collection[str], known: tuple[int, Listing] | None) -> tuple[int, Listing | None]:
    """When a folder was last changed, 0 if that may not be the last time, and what it holds, None if unreadable."""
    try:
        now, changed = time.time_ns(), os.stat(folder).st_mtime_ns
        if known is not None and known[0] == changed:
            return known
        folders, images = [], []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif Path(entry.name).suffix.lower() in suffixes:
                    images.append(entry.name)
    except OSError as error:
        logger.warning("%s is skipped: %s", folder, error.strerror)
        return 0, None
    return (changed if now - changed > SETTLED else 0), Listing(sorted(folders), sorted(images))


def _load(path: Path, dataset: str) -> dict[str, tuple[int, Listing]]:
    """The scan that `path` holds, nothing if there is no such file or it is of another version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return {}
        return {folder: (changed, Listing(*names)) for folder, (changed, *names) in content["folders"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{dataset}: scan_cache {path} holds no scan; delete it or name another file") from None


def _save(path: Path, read: dict[str, tuple[int, Listing]]) -> None:
    folders = {folder: [changed, listing.folders, listing.images] for folder, (changed, listing) in read.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"version": VERSION, "folders": folders}), encoding="utf-8")
