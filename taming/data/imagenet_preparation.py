"""ImageNet on disk: from the archives of ILSVRC2012 to one folder per synset, a list of the images, and a marker.

Whatever interrupts it, the next attempt goes on: `data.partial` becomes `data` only when it is complete, every image
and inner archive has its name only when it is complete, and the archives themselves are never changed.
"""

import logging
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

from tqdm import tqdm

from taming.data._io import read_list
from taming.data.utils import is_prepared, mark_prepared, opened_tar
from taming.files import atomic_path
from taming.util import download

logger = logging.getLogger(__name__)

LAYOUT = "<synset>/<name>.JPEG"


class DataMissingError(FileNotFoundError, RuntimeError):
    """Data that could not be downloaded, with what to do about it."""


@dataclass(frozen=True)
class Split:
    """One split of ILSVRC2012: `files` and their `sizes` in bytes begin with the archive; `dataset` is for errors.

    The archive of a split without `synsets_url` holds one archive per synset. That of another one holds all images
    side by side, and `files[1]`, which comes from there, tells their synsets.
    """

    dataset: str
    root: Path
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    at_hash: str
    expected_length: int
    synsets_url: str = ""

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def filelist(self) -> Path:
        return self.root / "filelist.txt"


def cache_root(name: str) -> Path:
    """Where a prepared dataset lies, below $XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "autoencoders", "data", name)


def prepare(split: Split) -> None:
    """Bring a split into `<root>/data/<synset>/*.JPEG` and list its images in `<root>/filelist.txt`, once.

    Raises FileNotFoundError for images or archives that are neither there nor to be had, ValueError for an archive with
    unsafe or unexpected members, OSError for a damaged one or too small a disk.
    """
    if is_prepared(split.root):
        if not split.filelist.is_file():
            raise FileNotFoundError(
                f"{split.dataset}: {split.root} is marked as prepared, but {split.filelist} is missing;"
                f" delete {split.root / '.ready'} to prepare it again"
            )
        return
    logger.info("%s: preparing %s", split.dataset, split.root)
    split.root.mkdir(parents=True, exist_ok=True)
    if not split.data.exists():
        _extract(split, _find_archive(split))
    _write_filelist(split)
    mark_prepared(split.root)


def _extract(split: Split, archive: Path) -> None:
    partial = split.root / "data.partial"
    partial.mkdir(exist_ok=True)
    if split.synsets_url:
        unpack_images(archive, _synsets_of_files(split), partial)
    else:
        unpack_synsets(archive, partial)
    for rest in [*partial.glob(".*.part"), *partial.glob("*/.*.part")]:  # of processes that were killed
        rest.unlink()
    partial.rename(split.data)


def unpack_synsets(archive: Path, target: Path) -> None:
    """Extract an archive of archives `<synset>.tar` to `target/<synset>/`, one after the other; what is there stays.

    Raises ValueError for an archive without such members.
    """
    with opened_tar(archive) as outer:
        members = [member for member in _safe_members(outer, target) if member.name.endswith(".tar")]
        if not members:
            raise ValueError(f"{archive}: holds no archives <synset>.tar")
        waiting = [member.size for member in members if not (target / _synset(member)).exists()]
        check_space(target, sum(waiting) + max(waiting, default=0), archive)
        with tqdm(total=sum(member.size for member in members), unit="B", unit_scale=True, desc=archive.name) as bar:
            for member in members:
                _unpack_synset(outer, member, target)
                bar.update(member.size)


def _synset(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).stem


def _unpack_synset(outer: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    folder = target / _synset(member)
    inner = target / f"{folder.name}.tar"
    if not folder.exists():
        _copy(outer, member, inner)
        partial = target / f"{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with opened_tar(inner) as images:
            images.extractall(partial, filter="data")
        partial.rename(folder)
    inner.unlink(missing_ok=True)


def unpack_images(archive: Path, synsets: Mapping[str, str], target: Path) -> None:
    """Extract an archive of images to `target/<synset>/`, with the synset of each file name; what is there stays.

    Raises ValueError for a file whose synset is not given.
    """
    with opened_tar(archive) as images:
        members = {PurePosixPath(member.name).name: member for member in _safe_members(images, target)}
        unknown = sorted(members.keys() - synsets.keys())
        if unknown:
            raise ValueError(f"{archive}: holds {unknown[0]} whose synset is not given ({len(unknown)} such files)")
        places = {target / synsets[name] / name: member for name, member in members.items()}
        check_space(target, sum(member.size for place, member in places.items() if not place.exists()), archive)
        with tqdm(total=sum(member.size for member in places.values()), unit="B", unit_scale=True) as bar:
            for place, member in places.items():
                _copy(images, member, place)
                bar.update(member.size)


def _safe_members(archive: tarfile.TarFile, target: Path) -> list[tarfile.TarInfo]:
    """Its regular files; FilterError if any member, of whatever kind, should not be extracted into `target`."""
    members = [tarfile.data_filter(member, str(target)) for member in archive.getmembers()]
    return [member for member in members if member.isfile()]


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a member to `path` unless a file of its size is there."""
    if path.is_file() and path.stat().st_size == member.size:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.extractfile(member) as source, atomic_path(path) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(source, file)


def check_space(folder: Path, needed: int, archive: Path) -> None:
    """Raise OSError if the disk of `folder` cannot take what `archive` holds."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{archive}: extracting it to {folder} needs {needed} bytes, the disk has {free} free; make room,"
            " or set XDG_CACHE_HOME to a folder on a larger disk"
        )


def _synsets_of_files(split: Split) -> dict[str, str]:
    """File name -> synset, by the second file of a split."""
    path = split.root / split.files[1]
    fetch(split.synsets_url, path, split.sizes[1], dataset=split.dataset)
    if not path.is_file():
        raise FileNotFoundError(
            f"{split.dataset}: {path} is missing and cannot be downloaded; place the file of {split.synsets_url} there"
        )
    synsets = {}
    for line in read_list(path, split.dataset):
        match = re.fullmatch(r"(\S+)\s+([\w-]+)", line)
        if match is None:
            raise ValueError(f"{split.dataset}: {path}: expected '<file name> <synset>', not {line!r}")
        synsets[match[1]] = match[2]
    return synsets


def fetch(url: str, path: Path, size: int | None, *, dataset: str) -> None:
    """Download a small file unless it is there with its size (None: any). What is there stays if that fails.

    Failure is only logged: whoever needs the file must look whether it is there.
    """
    present = path.is_file()
    if present and size in (None, path.stat().st_size):
        return
    try:
        download(url, path)
    except OSError as error:
        if present:
            logger.warning(
                "%s: %s has %d bytes instead of %d, it is used as it is since no other can be had: %s",
                *(dataset, path, path.stat().st_size, size, error),
            )
        else:
            logger.warning("%s: %s", dataset, error)


def _write_filelist(split: Split) -> None:
    images = sorted(path.relative_to(split.data).as_posix() for path in split.data.glob("*/*.JPEG"))
    if not images:
        raise FileNotFoundError(f"{split.dataset}: no images in {split.data}; expected {split.data}/{LAYOUT}")
    if len(images) != split.expected_length:
        logger.warning(
            "%s: %s holds %d images, the whole split has %d",
            *(split.dataset, split.data, len(images), split.expected_length),
        )
    with atomic_path(split.filelist) as temporary:
        temporary.write_text("".join(f"{image}\n" for image in images), encoding="utf-8")


def _find_archive(split: Split) -> Path:
    """The archive in the root folder, downloaded by BitTorrent if it is not there in its full size."""
    path = split.root / split.files[0]
    if path.is_file() and path.stat().st_size == split.sizes[0]:
        return path
    try:
        with _root_level_kept():
            found = _academictorrents().get(split.at_hash, datastore=str(split.root))
    except Exception as error:  # the package fails in ways of its own; whichever, the user must bring the file
        raise _missing(split, path, f"{type(error).__name__}: {error}") from error
    if os.path.abspath(found) != os.path.abspath(path) or not path.is_file():
        raise _missing(split, path, f"academictorrents has put it at {found}")
    return path


def _missing(split: Split, path: Path, reason: str) -> DataMissingError:
    return DataMissingError(
        f"{split.dataset}: cannot get {path.name} ({split.sizes[0]} bytes, torrent {split.at_hash}): {reason};"
        f" place it at {path}, or its images at {split.data}/{LAYOUT}"
    )


def _academictorrents() -> ModuleType:
    import inspect

    if not hasattr(inspect, "getargspec"):  # gone since Python 3.11, a dependency of the package still imports it
        inspect.getargspec = inspect.getfullargspec
    try:
        import academictorrents
    except ImportError as error:
        raise ImportError(f"{error}; downloading needs pip install 'taming-transformers[imagenet]'") from error
    return academictorrents


@contextmanager
def _root_level_kept() -> Iterator[None]:
    """The package silences the whole process's logging; undo that."""
    root = logging.getLogger()
    level = root.level
    try:
        yield
    finally:
        root.setLevel(level)
