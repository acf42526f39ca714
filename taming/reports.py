"""What reports of figures record beside them, as JSON: versions, and how the images that they are about were made."""

import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from taming.files import atomic_path
from taming.sampling.manifest import MANIFEST, read_manifest

PACKAGES = ("taming-transformers", "torch", "torchvision", "numpy", "pillow")


def versions(*more: str) -> dict[str, str | None]:
    """Versions of Python, of the packages that figures may depend on, and of `more`; None for one that is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def manifest_of(folder: Path) -> dict | None:
    """What sampling.json in a folder of images, or in the one above, says of how they were made; None without one."""
    for place in (folder, folder.absolute().parent):
        if (place / MANIFEST).is_file():
            return read_manifest(place / MANIFEST)
    return None


def write_report(path: Path, report: dict) -> None:
    """Write a report as JSON; it appears when it is complete. Figures that are not finite, which JSON lacks, are null.

    Raises FileNotFoundError if there is no folder to write it to.
    """
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; make it, or write elsewhere")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_finite(report), indent=2, default=str, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
