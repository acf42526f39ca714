"""Many samples of unconditional and class-conditional transformers: to tensors, or to folders of PNG files.

A sample is named by a key, (class, index), or (None, index) if unconditional, and depends on the seed and its key only.
So a job may stop at any time and go on later, in any batches.

b batch, (d, h, w) latent of the first stage, l tokens per image.
"""

import json
import logging
import platform
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from taming.files import atomic_path
from taming.images import save_png, to_uint8
from taming.models.cond_transformer import Net2NetTransformer
from taming.modules.util import Labelator
from taming.sampling.decode import Key, decode, sample_uniforms
from taming.sampling.filtering import check_filters

logger = logging.getLogger(__name__)

ALL_CLASSES = ("imagenet", "all")
MANIFEST = "sampling.json"
MAY_DIFFER = ("num_samples", "classes", "device", "versions")
"""Entries of the manifest in which two runs into one folder may differ; the first two only grow."""

PENDING_WRITES = 256
WRITER_THREADS = 4


def class_labels(model: Net2NetTransformer, classes: str | Sequence[int] | None = None) -> tuple[int | None, ...]:
    """The labels that `classes` means for this model: (None,) if it is unconditional, all it knows for None.

    A string is a list such as "3,5-9,"; "imagenet" and "all" are all classes. Raises ValueError for labels that the
    model does not know, and for a model whose conditioning is neither a class nor a start token.
    """
    if model.be_unconditional:
        if classes is not None and classes not in ALL_CLASSES:
            raise ValueError(f"classes {classes!r}: this model is unconditional, leave them out")
        return (None,)
    if not isinstance(model.cond_stage_model, Labelator):
        raise ValueError(
            f"this model is conditioned on {model.cond_stage_key!r}, which is neither a class nor nothing; "
            "sample it with scripts/make_samples.py"
        )
    return parse_classes(classes, model.cond_stage_model.n_classes)


def parse_classes(classes: str | Sequence[int] | None, n_classes: int) -> tuple[int, ...]:
    """Labels in the order given, each once; see `class_labels`."""
    if classes is None or classes in ALL_CLASSES:
        return tuple(range(n_classes))
    items = classes.removesuffix(",").split(",") if isinstance(classes, str) else classes
    labels = [label for item in items for label in _parse_range(str(item).strip(), n_classes)]
    if not labels:
        raise ValueError("classes: the list is empty")
    return tuple(dict.fromkeys(labels))


def _parse_range(item: str, n_classes: int) -> range:
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", item)
    if match is None:
        raise ValueError(
            f"classes: {item!r} is neither a label from 0 to {n_classes - 1}, nor a range such as 5-9, nor all"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < n_classes:
        raise ValueError(f"classes: {item} is out of range, the labels of this model go from 0 to {n_classes - 1}")
    return range(first, last + 1)


def latent_shape(
    model: Net2NetTransformer,
    *,
    steps: int | None = None,
    z_height: int | None = None,
    z_width: int | None = None,
    dim_z: int | None = None,
) -> tuple[int, int, int]:
    """(d, h, w) of one sample: the model's own where nothing else is asked for.

    Raises ValueError if steps is not the number of tokens, dim_z is not the codebook's, or the transformer cannot read
    so many tokens.
    """
    encoder, codebook_dim = model.first_stage_model.encoder, model.first_stage_model.quantize.e_dim
    side = encoder.resolution // 2 ** (encoder.num_resolutions - 1)
    height, width = (side if size is None else size for size in (z_height, z_width))
    if min(height, width) < 1:
        raise ValueError(f"the latent grid must have at least one row and column, not {height} x {width}")
    tokens = height * width * model.first_stage_model.quantize.tokens_per_position
    if steps is not None and steps != tokens:
        raise ValueError(f"steps={steps} does not fill a latent grid of {height} x {width}: {tokens} do")
    if dim_z is not None and dim_z != codebook_dim:
        raise ValueError(f"dim_z={dim_z}, but the codebook's entries have {codebook_dim} dimensions")
    block_size = model.transformer.block_size
    if tokens > block_size:
        raise ValueError(f"a latent grid of {height} x {width} does not fit into block_size {block_size}")
    return codebook_dim, height, width


@torch.no_grad()
def sample_images(
    model: Net2NetTransformer, keys: Sequence[Key], *, seed: int, shape: tuple[int, int, int] | None = None, **filters
) -> tuple[Tensor, Tensor]:
    """Images (b, c, H, W), unclamped around [-1, 1], and their tokens int64 (b, l), one row per (class, index) key.

    `shape` is (d, h, w), by default the model's; `filters` are the options of `next_token`. Only real entries of the
    codebook are drawn, also by a transformer with a larger vocabulary.
    """
    d, h, w = latent_shape(model) if shape is None else shape
    prefix = torch.tensor([[model.sos_token if label is None else label] for label, _ in keys], device=model.device)
    quantizer = model.first_stage_model.quantize
    length = h * w * quantizer.tokens_per_position
    uniforms = sample_uniforms(seed, keys, length)
    tokens = decode(model.transformer, prefix, length, uniforms=uniforms, n_tokens=quantizer.re_embed, **filters)
    return model.decode_to_img(tokens, (len(keys), d, h, w)), tokens


@dataclass(frozen=True)
class SamplingJob:
    """What is to be sampled, where to, and what is there already; made by `plan_job`.

    finished holds the indices of each class that have a file; manifest is what `sampling.json` will say.
    """

    model: Net2NetTransformer
    folder: Path
    classes: tuple[int | None, ...]
    num_samples: int
    shape: tuple[int, int, int]
    filters: Mapping[str, float]
    overwrite: bool
    finished: Mapping[int | None, frozenset[int]]
    manifest: Mapping[str, object]

    @property
    def n_remaining(self) -> int:
        skipped = 0 if self.overwrite else sum(map(len, self.finished.values()))
        return len(self.classes) * self.num_samples - skipped

    def remaining(self) -> Iterator[Key]:
        for label in self.classes:
            skipped = frozenset() if self.overwrite else self.finished[label]
            yield from ((label, index) for index in range(self.num_samples) if index not in skipped)

    def file(self, key: Key) -> Path:
        label, index = key
        return _class_folder(self.folder, label) / f"{index:06}.png"


def plan_job(
    model: Net2NetTransformer,
    root: str | Path,
    *,
    num_samples: int,
    classes: str | Sequence[int] | None = None,
    seed: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = 250,
    top_p: float = 1.0,
    global_step: int = 0,
    overwrite: bool = False,
    shape: tuple[int, int, int] | None = None,
    precision: str = "32",
    run: str | None = None,
) -> SamplingJob:
    """The job of `num_samples` samples per class, or in all if unconditional, below `root`; writes nothing yet.

    The folder is <root>/samples/top_k_<k>_temp_<t>_top_p_<p>/<global_step>. Without a seed it is the one that the
    folder's manifest records, or else a random one. `run` (the model's name) and `precision` are recorded only.
    Raises ValueError for options out of range, and for others than those of the samples that stay in the folder.
    """
    labels = class_labels(model, classes)
    _check_numbers(num_samples, seed)
    check_filters(temperature, top_p)
    filters = {"temperature": float(temperature), "top_k": top_k or 0, "top_p": float(top_p)}
    name = "top_k_{top_k}_temp_{temperature:.2f}_top_p_{top_p}".format(**filters)
    folder = Path(root) / "samples" / name / str(global_step)
    finished = {label: _finished(_class_folder(folder, label), num_samples) for label in labels}
    shape = latent_shape(model) if shape is None else shape
    manifest = {
        "run": run,
        "global_step": global_step,
        "seed": seed,
        "num_samples": num_samples,
        "classes": None if model.be_unconditional else list(labels),
        **filters,
        **dict(zip(("dim_z", "z_height", "z_width"), shape, strict=True)),
        "precision": precision,
        **_environment(model),
    }
    all_redone = overwrite and _n_files(folder) == sum(map(len, finished.values()))
    if not all_redone:
        manifest = _continue_manifest(folder / MANIFEST, manifest)
    if manifest["seed"] is None:
        manifest["seed"] = secrets.randbits(32)
    return SamplingJob(model, folder, labels, num_samples, shape, filters, overwrite, finished, manifest)


def run_job(job: SamplingJob, *, batch_size: int = 25, progress: bool = True) -> Path:
    """Sample what remains, in batches that may mix classes, and write the files; returns the job's folder.

    Each file appears when it is complete. What an interruption leaves can be continued by planning the job again.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.overwrite:
        for label, indices in job.finished.items():
            for index in indices:
                job.file((label, index)).unlink(missing_ok=True)
    with atomic_path(job.folder / MANIFEST) as path:
        path.write_text(json.dumps(job.manifest, indent=2) + "\n")
    for label in job.classes:
        _class_folder(job.folder, label).mkdir(exist_ok=True)
    remaining = job.remaining()
    bar = tqdm(total=job.n_remaining, desc="sampling", unit="image", disable=not progress)
    with bar, _background_writer() as write:
        while keys := list(islice(remaining, batch_size)):
            images, _ = sample_images(job.model, keys, seed=job.manifest["seed"], shape=job.shape, **job.filters)
            for key, image in zip(keys, to_uint8(images), strict=True):
                write(job.file(key), image)
            bar.update(len(keys))
    return job.folder


def sample_to_folder(
    model: Net2NetTransformer, root: str | Path, *, batch_size: int = 25, progress: bool = True, **options
) -> Path:
    """Plan a job (`options` are those of `plan_job`) and run it; returns the folder that holds its files."""
    job = plan_job(model, root, **options)
    logger.info("%d samples remain, seed %s, to %s", job.n_remaining, job.manifest["seed"], job.folder)
    return run_job(job, batch_size=batch_size, progress=progress)


def _check_numbers(num_samples: int, seed: int | None) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples must be positive, not {num_samples}")
    if seed is not None and not 0 <= seed < 2**128:
        raise ValueError(f"seed must lie between 0 and 2**128 - 1, not {seed}")


def _environment(model: Net2NetTransformer) -> dict[str, object]:
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": model.device.type, "versions": versions}


def _class_folder(folder: Path, label: int | None) -> Path:
    return folder if label is None else folder / str(label)


def _finished(folder: Path, num_samples: int) -> frozenset[int]:
    stems = (path.stem for path in folder.glob("*.png"))
    return frozenset(int(stem) for stem in stems if re.fullmatch("[0-9]{6,}", stem) and int(stem) < num_samples)


def _n_files(folder: Path) -> int:
    """Number of samples of all classes, also of those and beyond those that a job is about."""
    return sum(1 for pattern in ("*.png", "*/*.png") for _ in folder.glob(pattern))


def _continue_manifest(path: Path, manifest: Mapping[str, object]) -> dict:
    """`manifest` going on from the one in the file `path`, if there is one: with its seed, and all it covers."""
    if not path.is_file():
        return dict(manifest)
    try:
        old = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); mend it, or sample with overwrite") from error
    new = manifest | {"num_samples": max(manifest["num_samples"], old.get("num_samples", 0))}
    if manifest["seed"] is None:
        new["seed"] = old.get("seed")
    if new["classes"] is not None:
        new["classes"] = sorted({*new["classes"], *(old.get("classes") or ())})
    for option, value in new.items():
        if option not in MAY_DIFFER and option in old and value != old[option]:
            raise ValueError(
                f"{path}: the samples there were made with {option}={old[option]}, not {value}; "
                "keep that value, sample with overwrite, or sample to another folder"
            )
    return new


@contextmanager
def _background_writer() -> Iterator[Callable[[Path, np.ndarray], None]]:
    """A function that writes an image in the background. All are written when the block ends, also by an exception.

    An error of writing is raised by a later call, or at the end.
    """
    futures: deque[Future] = deque()
    with ThreadPoolExecutor(WRITER_THREADS) as pool:

        def write(path: Path, image: np.ndarray) -> None:
            if len(futures) >= PENDING_WRITES:
                futures.popleft().result()
            futures.append(pool.submit(save_png, path, image))

        yield write
        for future in futures:
            future.result()
