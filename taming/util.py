"""Downloads with checksums, and names that published code imports from here."""

import hashlib
import os
import urllib.request
from pathlib import Path

from taming.checkpoint import load_checkpoint as load_checkpoint
from taming.config import get_obj_from_str as get_obj_from_str
from taming.config import instantiate_from_config as instantiate_from_config

URL_MAP = {"vgg_lpips": "https://heibox.uni-heidelberg.de/f/607503859c864bc1b30b/?dl=1"}
CKPT_MAP = {"vgg_lpips": "vgg.pth"}
MD5_MAP = {"vgg_lpips": "d507d7349b931f0638a25a48a722f98a"}


def download(url: str, local_path: str | os.PathLike, chunk_size: int = 1024) -> None:
    """Stream `url` to `local_path` with a progress bar; the file appears under its name only when complete.

    Raises OSError, naming address and file, where the address does not answer or answers with an error.
    """
    from tqdm import tqdm

    local_path = Path(local_path)
    local_path.parent.mkdir(parents=True, exist_ok=True)
    part = local_path.with_name(f"{local_path.name}.part")
    try:
        with urllib.request.urlopen(url) as response, part.open("wb") as file:
            size = int(response.headers.get("Content-Length", 0)) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=local_path.name) as progress:
                while chunk := response.read(chunk_size):
                    file.write(chunk)
                    progress.update(len(chunk))
        if size is not None and part.stat().st_size != size:
            raise OSError(f"{part.stat().st_size} of {size} bytes came")
        part.replace(local_path)
    except (OSError, ValueError) as error:
        raise OSError(f"cannot download {url} to {local_path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


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
