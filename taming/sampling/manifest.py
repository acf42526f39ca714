"""sampling.json: how the samples of a folder were made, so that a job goes on as it began, in one process or more."""

import json
import logging
import platform
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from taming.files import atomic_path
from taming.shards import Shard

logger = logging.getLogger(__name__)

MANIFEST = "sampling.json"
MAY_DIFFER = ("num_samples", "classes", "scores", "compile", "device", "versions")
"""Entries in which two runs into one folder may differ; the first two only grow."""
ABSENT = {"acceptance_rate": 1.0, "guidance_scale": 1.0}
"""What it means if an older manifest lacks an entry."""

PATIENCE = 600.0
"""Seconds that a process waits for the manifest of the first."""
POLL = 0.2


def environment(model: nn.Module) -> dict[str, object]:
    """What else the pixels may depend on."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": model.device.type, "versions": versions}


def settle(
    path: Path, manifest: Mapping[str, object], shard: Shard, *, redo: bool = False, has_samples: bool = False
) -> dict:
    """The manifest of a planned job: going on from the file `path` unless all there is to be made again (`redo`).

    It gets a seed if it has none, unless another process decides that. See `continue_manifest` for what it raises.
    """
    is_first = shard.index == 0
    if not redo:
        manifest = continue_manifest(path, manifest, has_samples=is_first and has_samples)
    if not is_first or manifest["seed"] is not None:
        return dict(manifest)
    return {**manifest, "seed": secrets.randbits(32)}


def read_manifest(path: Path) -> dict:
    """The manifest in the file `path`; raises ValueError for what is none."""
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); mend it, or sample with overwrite") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}: not a manifest of samples; sample to another folder")
    return manifest


def write_manifest(path: Path, manifest: Mapping[str, object]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")


def continue_manifest(path: Path, manifest: Mapping[str, object], *, has_samples: bool = False) -> dict:
    """`manifest` going on from the one in the file `path`, if there is one: with its seed, and all it covers.

    Raises ValueError if the samples there were made with other options, or nobody knows how (`has_samples`, but no
    manifest).
    """
    if not path.is_file():
        if has_samples:
            raise ValueError(
                f"{path.parent}: holds samples, but no {MANIFEST} that tells how they were made; "
                "sample with overwrite, or to another folder"
            )
        return dict(manifest)
    old = ABSENT | read_manifest(path)
    _check_same(path, old, manifest)
    new = dict(manifest)
    if manifest["seed"] is None:
        new["seed"] = old.get("seed")
    if isinstance(old.get("num_samples"), int):
        new["num_samples"] = max(manifest["num_samples"], old["num_samples"])
    if manifest.get("classes") is not None:
        new["classes"] = sorted({*manifest["classes"], *(old.get("classes") or ())})
    if "scores" in manifest:
        new["scores"] = old.get("scores", {})
    return new


def _check_same(path: Path, old: Mapping[str, object], manifest: Mapping[str, object]) -> None:
    # What is best among candidates changes with their number.
    may_differ = {*MAY_DIFFER} - ({"num_samples"} if "scores" in manifest else set())
    for option, value in manifest.items():
        if option in may_differ or option not in old or (option == "seed" and value is None):
            continue
        if value != old[option]:
            raise ValueError(
                f"{path}: the samples there were made with {option}={old[option]}, not {value}; "
                "keep that value, sample with overwrite, or sample to another folder"
            )


def agree(path: Path, manifest: Mapping[str, object], shard: Shard) -> dict:
    """The manifest of a job that starts: the first process writes it to `path`, the others wait for it there.

    So a seed that nobody gave is the same for all. Raises ValueError if the one there is of another job, or none comes.
    """
    if shard.index == 0:
        write_manifest(path, manifest)
        return dict(manifest)
    deadline = time.monotonic() + PATIENCE
    if not path.is_file():
        logger.info("waiting for the first process to write %s", path)
    while not path.is_file():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{path}: shard {shard.index}/{shard.count} waited for it; start shard 0 as well, it comes first"
            )
        time.sleep(POLL)
    return continue_manifest(path, manifest)
