"""Jobs whose files have names: which are there already, under which manifest, and which this process is to make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.manifest import MANIFEST, agree, settle
from taming.sampling.options import JobOptions
from taming.sampling.writers import explained, remove_leftovers


@dataclass(frozen=True)
class FileJob:
    """A job that writes `<folder>/<name>.png` for each of its names; `finished` are those that have their file."""

    model: Net2NetTransformer
    folder: Path
    names: tuple[str, ...]
    options: JobOptions
    finished: frozenset[str]
    manifest: Mapping[str, object]

    @property
    def progress(self) -> str:
        """What describes any job: how many files are finished, and the seed."""
        n_finished = 0 if self.options.overwrite else len(self.finished)
        done = f", {n_finished} of them finished" if n_finished else ""
        seed = "that of shard 0" if self.manifest["seed"] is None else self.manifest["seed"]
        return f"{done}; seed {seed}"

    def remaining(self) -> list[int]:
        """Places among the names of what this process is to make."""
        skipped = () if self.options.overwrite else self.finished
        return [place for place in self.options.shard.part(range(len(self.names))) if self.names[place] not in skipped]

    def file(self, place: int) -> Path:
        return self.folder / f"{self.names[place]}.png"


Job = TypeVar("Job", bound=FileJob)


def continued(
    folder: Path, names: Sequence[str], manifest: Mapping[str, object], options: JobOptions
) -> tuple[frozenset[str], dict]:
    """The names that have files in the folder, and the manifest going on from the one there.

    Raises ValueError for files that were made with other options and are to stay.
    """
    held = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.png")}
    is_fresh = not held and options.shard.count == 1  # a job that made nothing binds nobody
    redo = (options.overwrite or is_fresh) and held <= set(names)
    manifest = settle(folder / MANIFEST, manifest, options.shard, redo=redo, has_samples=bool(held))
    return frozenset(held & set(names)), manifest


def start(job: Job) -> Job:
    """Make room for the files, and agree with the other processes on the manifest."""
    with explained(job.folder):
        for place in range(len(job.names)):
            job.file(place).parent.mkdir(parents=True, exist_ok=True)
            if job.options.overwrite:
                job.file(place).unlink(missing_ok=True)
        job = replace(job, manifest=agree(job.folder / MANIFEST, job.manifest, job.options.shard))
        remove_leftovers(job.folder, map(job.file, job.remaining()))
    return job
