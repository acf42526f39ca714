"""Published models on disk: found where they were placed, downloaded where an address is known, verified.

A model lies in a run folder, `<root>/<folder>`, with `checkpoints/last.ckpt` and `configs/*.yaml`. The places looked at
are $TAMING_MODELS/<folder>, ./logs/<folder> and ~/.cache/taming/<folder>.
"""

import logging
import os
import shutil
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path, PurePosixPath

from omegaconf import OmegaConf

from taming.checkpoint import CheckpointError
from taming.files import atomic_path
from taming.published import CHECKPOINT, CONFIG, PublishedModel, models_by_name, published
from taming.runs import CHECKPOINT_FOLDERS
from taming.trusted_targets import mark_as_downloaded
from taming.util import download, sha256_hash

logger = logging.getLogger(__name__)

CACHE = Path("~/.cache/taming")
BASE_LEARNING_RATE = 4.5e-6
CHUNK_SIZE = 1 << 16
SUFFIXES = (".ckpt", ".yaml")


def find(name_or_path: str | os.PathLike) -> Path | None:
    """The run folder of a published model if a checkpoint lies in it, or a path that exists; None without either."""
    model = models_by_name().get(os.fspath(name_or_path))
    if model is None:
        path = Path(name_or_path)
        return path if path.exists() else None
    roots = [Path("logs"), CACHE.expanduser()]
    if _download_root() not in roots:
        roots.insert(0, _download_root())
    places = (root / model.folder for root in roots)
    return next((folder for folder in places if _checkpoints(folder)), None)


def _download_root() -> Path:
    return Path(os.environ.get("TAMING_MODELS") or CACHE).expanduser()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(file for name in CHECKPOINT_FOLDERS for file in (folder / name).glob("*.ckpt"))


def _placed(model: PublishedModel, root: str | os.PathLike | None) -> Path | None:
    if root is None:
        return find(model.name)
    folder = Path(root) / model.folder
    return folder if _checkpoints(folder) else None


def fetch(name: str, *, root: str | os.PathLike | None = None) -> Path:
    """The run folder of a published model, downloaded if it is not there.

    With `root` it is, or comes, below that folder; else where `find` looks, or below $TAMING_MODELS, by default
    ~/.cache/taming. What an interrupted download has left is continued. The SHA-256 of a downloaded checkpoint is
    logged, and kept beside it.

    Raises ValueError for an unknown name, CheckpointError for a checkpoint that has changed since its download,
    FileNotFoundError where no address is known, OSError where a download fails; with what to place where by hand.
    """
    model = published(name)
    folder = _placed(model, root)
    if folder is not None:
        for checkpoint in _checkpoints(folder):
            _check_if_newer(checkpoint)
        return folder
    folder = (_download_root() if root is None else Path(root)) / model.folder
    if not model.files:
        raise FileNotFoundError(
            f"{model.name}: no direct address of its files is known; get them as {model.page} says, and place the "
            f"checkpoint as {folder / CHECKPOINT} and its config as {folder / CONFIG}"
        )
    logger.info("downloading %s (%s) to %s", model.name, model.description, folder)
    _download(model, folder)
    return folder


def _download(model: PublishedModel, folder: Path) -> None:
    """All files of the model; the checkpoint, by which others know that it is there, is the last."""
    mark_as_downloaded(folder)
    for file in model.files:
        target = folder / file.path
        if target.is_file():
            continue
        try:
            found = download(file.url, target, CHUNK_SIZE, sha256=file.sha256)
            if target.suffix == ".zip":
                _unpack(target, model, folder)
        except OSError as error:
            if (folder / CHECKPOINT).is_file():  # another process was faster, and has removed the archive
                return
            wanted = CHECKPOINT if target.suffix == ".zip" else file.path
            raise OSError(
                f"{model.name}: {error}; if it fails later too, get the file as {model.page} says and place it as "
                f"{folder / wanted}"
            ) from error
        if target.suffix == ".ckpt":
            _keep_record(target, found)


def _unpack(archive: Path, model: PublishedModel, folder: Path) -> None:
    """Take the checkpoint and the configs out of `archive`, under names of our own: no member lands elsewhere."""
    try:
        with zipfile.ZipFile(archive) as content:
            by_suffix = {suffix: [m for m in content.infolist() if m.filename.endswith(suffix)] for suffix in SUFFIXES}
            if len(by_suffix[".ckpt"]) != 1:
                raise zipfile.BadZipFile(f"{len(by_suffix['.ckpt'])} checkpoints in it instead of one")
            for member in by_suffix[".yaml"]:
                _extract(content, member, folder / "configs" / PurePosixPath(member.filename).name)
            if model.config is not None and not by_suffix[".yaml"]:
                _write_config(model.config(), folder / CONFIG)
            _extract(content, by_suffix[".ckpt"][0], folder / CHECKPOINT)
    except (zipfile.BadZipFile, zlib.error) as error:
        archive.unlink(missing_ok=True)
        raise OSError(f"{archive}: not the archive that was expected ({error}); it was discarded") from error
    _keep_record(folder / CHECKPOINT, sha256_hash(folder / CHECKPOINT))
    archive.unlink(missing_ok=True)


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as source, atomic_path(target) as path, path.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK_SIZE)


def _write_config(model: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        OmegaConf.save({"model": {"base_learning_rate": BASE_LEARNING_RATE, **model}}, temporary)


def _record(checkpoint: Path) -> Path:
    """Where the SHA-256 of a downloaded checkpoint is kept, as `sha256sum -c` reads it."""
    return checkpoint.with_name(f"{checkpoint.name}.sha256")


def _keep_record(checkpoint: Path, sha256: str) -> None:
    logger.info("%s has the SHA-256 %s", checkpoint, sha256)
    with atomic_path(_record(checkpoint)) as path:
        path.write_text(f"{sha256}  {checkpoint.name}\n")


def _recorded(checkpoint: Path) -> str | None:
    record = _record(checkpoint)
    return next(iter(record.read_text().split()), None) if record.is_file() else None


def _check_if_newer(checkpoint: Path) -> None:
    """Check a file that was written to after its SHA-256 was; reading gigabytes every time would take too long."""
    record = _record(checkpoint)
    if record.is_file() and checkpoint.stat().st_mtime > record.stat().st_mtime:
        _check(checkpoint, _recorded(checkpoint))
        with suppress(PermissionError):
            record.touch()


def _check(checkpoint: Path, expected: str | None) -> str:
    found = sha256_hash(checkpoint)
    if expected not in (None, found):
        raise CheckpointError(
            f"{checkpoint}: damaged or replaced, its SHA-256 is {found} instead of {expected}; delete the file to "
            f"download it again, or {_record(checkpoint).name} beside it to keep it"
        )
    return found


def verify(name: str, *, root: str | os.PathLike | None = None) -> dict[Path, bool]:
    """Read all checkpoints of a placed model; whether there is a SHA-256 to compare with, by file.

    Raises FileNotFoundError if the model is in none of the places of `fetch`, and CheckpointError for a checkpoint
    whose SHA-256 is not that of the published, or of the downloaded file.
    """
    model = published(name)
    folder = _placed(model, root)
    if folder is None:
        raise FileNotFoundError(f"{model.name}: not found; scripts/download_model.py {model.name} gets it")
    known = {folder / file.path: file.sha256 for file in model.files}
    compared = {}
    for checkpoint in _checkpoints(folder):
        expected = known.get(checkpoint) or _recorded(checkpoint)
        logger.info("%s has the SHA-256 %s", checkpoint, _check(checkpoint, expected))
        compared[checkpoint] = expected is not None
    return compared
