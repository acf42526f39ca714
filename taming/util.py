"""Downloads with checksums, and names that published code imports from here."""

import glob
import hashlib
import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from taming.checkpoint import load_checkpoint as load_checkpoint
from taming.config import get_obj_from_str as get_obj_from_str
from taming.config import instantiate_from_config as instantiate_from_config
from taming.nested import KeyNotFoundError as KeyNotFoundError
from taming.nested import retrieve as retrieve

URL_MAP = {"vgg_lpips": "https://heibox.uni-heidelberg.de/f/607503859c864bc1b30b/?dl=1"}
CKPT_MAP = {"vgg_lpips": "vgg.pth"}
MD5_MAP = {"vgg_lpips": "d507d7349b931f0638a25a48a722f98a"}

TIMEOUT = 30.0
"""Seconds that a server may be silent."""

ABANDONED_AFTER = 4 * TIMEOUT
"""Seconds after which a partial file that nobody writes to belongs to a process that was killed."""


def download(
    url: str,
    local_path: str | os.PathLike,
    chunk_size: int = 1024,
    *,
    sha256: str | None = None,
    resume: bool = True,
) -> str:
    """Stream `url` to `local_path` with a progress bar; the file appears under its name only when complete.

    With `resume`, what an interrupted download leaves, `<local_path>.part`, is continued by the next one where the
    server allows that. Several processes may download the same file. Returns the SHA-256 of the file.

    Raises OSError, naming address and file, where the address does not answer, answers with an error, with a web page
    or with too few bytes, where the file's SHA-256 is not `sha256`, and where the disk is too small.
    """
    local_path = Path(local_path)
    local_path.parent.mkdir(parents=True, exist_ok=True)
    own = _claim_part(local_path, resume)
    try:
        _transfer(url, own, chunk_size, local_path.name)
        found = sha256_hash(own)
        if sha256 not in (None, found):
            own.unlink()
            raise OSError(f"the SHA-256 of what came is {found} instead of {sha256}; it was discarded")
        own.replace(local_path)
        for rest in _rests(local_path):
            rest.unlink(missing_ok=True)
    except (OSError, ValueError, HTTPException) as error:
        reason = error.reason if type(error) is URLError else error
        raise OSError(f"cannot download {url} to {local_path}: {reason}") from error
    finally:
        _release_part(own, local_path, resume)
    return found


def _claim_part(path: Path, resume: bool) -> Path:
    """A file beside `path` that only this call writes to: what is left of an earlier attempt, or a new one.

    Renaming is atomic, so of several processes one gets the rest and the others start anew.
    """
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    for rest in _rests(path) if resume else ():
        with suppress(FileNotFoundError):  # another process was faster
            os.utime(rest)  # nobody takes it for abandoned before its first byte comes
            return rest.rename(own)
    own.touch()
    return own


def _rests(path: Path) -> list[Path]:
    """What earlier attempts have left, released or because their process was killed; the longest first."""
    sizes = {}
    for file in path.parent.glob(f"{glob.escape(path.name)}*.part"):
        released = file.name == f"{path.name}.part"
        if released or re.fullmatch(r"\.[0-9a-f]{32}\.part", file.name.removeprefix(path.name)):
            with suppress(FileNotFoundError):
                status = file.stat()
                if released or time.time() - status.st_mtime > ABANDONED_AFTER:
                    sizes[file] = status.st_size
    return sorted(sizes, key=sizes.get, reverse=True)


def _release_part(own: Path, path: Path, resume: bool) -> None:
    """Leave what came for the next attempt, unless there is more of it, or nothing came, or it became the file."""
    part = path.with_name(f"{path.name}.part")
    if not own.exists():
        return
    left = part.stat().st_size if part.exists() else 0
    if resume and own.stat().st_size > left:
        own.replace(part)
    else:
        own.unlink()


def _transfer(url: str, part: Path, chunk_size: int, title: str) -> None:
    """Append to `part` what it lacks of the content of `url`, or all of it where the server cannot continue."""
    from tqdm import tqdm

    response = _open(url, part.stat().st_size)
    if response is None:
        return
    with response, part.open("r+b") as file:
        offset, total = _extent(response, part.stat().st_size)
        _check_room(part, total, offset)
        file.truncate(offset)
        file.seek(offset)
        with tqdm(total=total, initial=offset, unit="B", unit_scale=True, desc=title) as progress:
            while chunk := response.read(chunk_size):
                if file.tell() == 0:
                    _refuse_page(response, chunk)
                file.write(chunk)
                progress.update(len(chunk))
    size = part.stat().st_size
    if total not in (None, size):
        raise OSError(f"only {size} of {total} bytes came")


def _open(url: str, offset: int):
    """The answer to a request for `url` from `offset` on, None if nothing is there because all has come."""
    headers = {"User-Agent": "taming-transformers"}
    if offset == 0:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    try:
        return urlopen(Request(url, headers=headers | {"Range": f"bytes={offset}-"}), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        complete = error.headers.get("Content-Range", "").endswith(f"/{offset}")
        return None if complete else _open(url, 0)


def _extent(response, offset: int) -> tuple[int, int | None]:
    """Where the content of `response` begins, and the size of the whole file where that is known."""
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        size = response.headers.get("Content-Length")
        return 0, None if size is None else int(size)
    answer = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer)
    if match is None or int(match[1]) != offset:
        raise OSError(f"asked for the bytes from {offset} on, the server answered with '{answer}'")
    return offset, None if match[2] == "*" else int(match[2])


def _check_room(part: Path, total: int | None, offset: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - offset > free:
        raise OSError(f"{total - offset} bytes are needed, but the disk has only {free} left")


def _refuse_page(response, beginning: bytes) -> None:
    """Raise OSError for HTML: whoever asks for a file and gets a page is to log in, or the file has moved."""
    is_page = beginning.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))
    if is_page or response.headers.get_content_type() == "text/html":
        raise OSError("the answer is a web page instead of the file; open the address in a browser to see why")


def sha256_hash(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_hash(path: str | os.PathLike) -> str:
    """Hexadecimal MD5 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def get_ckpt_path(name: str, root: str | os.PathLike, check: bool = False) -> str:
    """Path of a known weight file below `root`, downloaded if missing or, with `check`, if its MD5 is wrong."""
    assert name in URL_MAP, f"unknown weights '{name}'; known are {sorted(URL_MAP)}"
    path = Path(root, CKPT_MAP[name])
    if not path.exists() or (check and md5_hash(path) != MD5_MAP[name]):
        incoming = path.with_name(f"{path.name}.unchecked")
        download(URL_MAP[name], incoming)
        if md5_hash(incoming) != MD5_MAP[name]:
            incoming.unlink()
            raise OSError(f"{URL_MAP[name]} gave a file whose MD5 is not {MD5_MAP[name]}")
        incoming.replace(path)
    return str(path)
