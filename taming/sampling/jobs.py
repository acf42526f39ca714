"""Many samples of unconditional and class-conditional transformers, to folders of PNG files; see `plan` for what is
sampled and where it goes.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from taming.images import to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.sampling.manifest import MANIFEST, agree
from taming.sampling.options import SamplingOptions
from taming.sampling.plan import SamplingJob, Scorer, class_folder, plan_job
from taming.sampling.rejection import remove_candidates, run_rejection
from taming.sampling.samples import sample_batches
from taming.sampling.writers import explained, output, remove_leftovers, write_npz

logger = logging.getLogger(__name__)


def run_job(job: SamplingJob, *, progress: bool = True) -> Path:
    """Sample what this process is to make, in batches that may mix classes, and write it; returns the job's folder.

    Each file appears when it is complete. What an interruption leaves can be continued by planning the job again.
    """
    with explained(job.folder):
        job = _start(job)
    if job.options.acceptance_rate < 1:
        run_rejection(job, progress=progress)
        return job.folder
    with output(job.folder, job.n_remaining, progress=progress) as (write, bar):
        for keys, images, _ in sample_batches(job.model, job.remaining, **job.draw_options):
            for key, image in zip(keys, to_uint8(images), strict=True):
                write(job.file(key), image)
            bar.update(len(keys))
    return job.folder


def sample_to_folder(
    model: Net2NetTransformer,
    root: str | Path,
    *,
    classes: str | Sequence[int] | None = None,
    shape: tuple[int, int, int] | None = None,
    global_step: int = 0,
    run: str | None = None,
    score: Scorer | None = None,
    progress: bool = True,
    **options,
) -> Path:
    """Plan a job (see `plan_job`; `options` are those of `SamplingOptions`) and run it; returns its folder."""
    what = {"classes": classes, "shape": shape, "global_step": global_step, "run": run, "score": score}
    job = plan_job(model, root, SamplingOptions(**options), **what)
    logger.info("%d samples remain, seed %s, to %s", job.n_remaining, job.manifest["seed"], job.folder)
    return run_job(job, progress=progress)


def check_npz(path: Path) -> None:
    """Raises FileNotFoundError or ValueError if `save_npz` could not write there, before hours of sampling."""
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"--npz {path}: no folder {path.parent}, make it first")
    if path.suffix != ".npz" or path.is_dir():
        raise ValueError(f"--npz {path}: expected the name of a file that ends with .npz")


def save_npz(job: SamplingJob, path: Path) -> bool:
    """Gather the job's files in the order of its keys, see `write_npz`; False if other processes still miss some."""
    files = [job.file(key) for key in job.all_keys()]
    missing = sum(not file.is_file() for file in files)
    if missing:
        logger.warning("%d samples are still missing: the last process to end writes %s", missing, path)
        return False
    labels = None if job.model.be_unconditional else [label for label, _ in job.all_keys()]
    write_npz(path, files, labels)
    return True


def _start(job: SamplingJob) -> SamplingJob:
    """Make room for the files, and agree with the other processes on the manifest."""
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.options.overwrite:
        for label, indices in job.finished.items():
            for index in indices:
                job.file((label, index)).unlink(missing_ok=True)
        remove_candidates(job)
    job = replace(job, manifest=agree(job.folder / MANIFEST, job.manifest, job.options.shard))
    for label in job.classes:
        class_folder(job.folder, label).mkdir(exist_ok=True)
    if job.options.acceptance_rate == 1 or job.options.shard.count == 1:  # else no file has an owner
        remove_leftovers(job.folder, map(job.file, job.remaining()))
    return job
