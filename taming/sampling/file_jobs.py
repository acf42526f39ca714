"""Jobs whose files have names: which are there already, under which manifest, and which this process is to make."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.manifest import MANIFEST, agree, settle
from taming.sampling.options import JobOptions
from taming.sampling.writers import explained, remove_leftovers


@dataclass(frozen=True)
class FileJob:
    """A job that writes `<folder>/<name>.png`, or one such file in each of its subfolders, for each of its names.

    `finished` are the names that have all their files.
    """

    model: Net2NetTransformer
    folder: Path
    names: tuple[str, ...]
    options: JobOptions
    finished: frozenset[str]
    manifest: Mapping[str, object]

    @property
    def subfolders(self) -> tuple[str, ...]:
        """Where below the folder each name has a file."""
        return ("",)

    @property
    def progress(self) -> str:
        """What describes any job: how many names are finished, and the seed."""
        n_finished = 0 if self.options.overwrite else len(self.finished)
        done = f", {n_finished} of them finished" if n_finished else ""
        seed = "that of shard 0" if self.manifest["seed"] is None else self.manifest["seed"]
        return f"{done}; seed {seed}"

    def remaining(self) -> list[int]:
        """Places among the names of what this process is to make."""
        skipped = () if self.options.overwrite else self.finished
        return [place for place in self.options.shard.part(range(len(self.names))) if self.names[place] not in skipped]

    def file(self, place: int, subfolder: str = "") -> Path:
        return self.folder / subfolder / f"{self.names[place]}.png"

    def files(self, places: Iterable[int]) -> Iterator[Path]:
        """All files of the names at these places."""
        return (self.file(place, subfolder) for place in places for subfolder in self.subfolders)


Job = TypeVar("Job", bound=FileJob)


def continued(
    folder: Path,
    names: Sequence[str],
    manifest: Mapping[str, object],
    options: JobOptions,
    *,
    subfolders: Sequence[str] = ("",),
) -> tuple[frozenset[str], dict]:
    """The names that have their files below the folder, and the manifest going on from the one there.

    Raises ValueError for files that were made with other options and are to stay.
    """
    held = [_names(folder / subfolder) for subfolder in subfolders]
    is_fresh = not any(held) and options.shard.count == 1  # a job that made nothing binds nobody
    redo = (options.overwrite or is_fresh) and set.union(*held) <= set(names)
    manifest = settle(folder / MANIFEST, manifest, options.shard, redo=redo, has_samples=any(held))
    return frozenset(set.intersection(*held, set(names))), manifest


def _names(folder: Path) -> set[str]:
    """What the PNG files below a folder are called, also those of other jobs."""
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")}


def start(job: Job) -> Job:
    """Make room for the files, and agree with the other processes on the manifest."""
    with explained(job.folder):
        files = list(job.files(range(len(job.names))))
        for folder in {path.parent for path in files}:
            folder.mkdir(parents=True, exist_ok=True)
        for path in files if job.options.overwrite else ():
            path.unlink(missing_ok=True)
        job = replace(job, manifest=agree(job.folder / MANIFEST, job.manifest, job.options.shard))
        remove_leftovers(job.folder, job.files(job.remaining()))
    return job
