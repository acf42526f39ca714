"""Rejection sampling (Razavi et al. 2019, section 4): of many candidates of a class, the best by a score become files.

Candidates are kept as tokens and scores in small files until a class is chosen from, so this may stop and go on as any
job. They belong to processes file by file. m candidates of a class, l tokens per image.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from taming.files import atomic_path
from taming.images import to_uint8
from taming.sampling.decode import Key
from taming.sampling.manifest import MANIFEST, read_manifest, write_manifest
from taming.sampling.plan import CANDIDATES, SamplingJob, label_name
from taming.sampling.samples import sample_batches
from taming.sampling.writers import Write, explained, output

logger = logging.getLogger(__name__)

CANDIDATES_PER_FILE = 100


class Block(NamedTuple):
    """Candidates of a class that share a file: the number-th of those whose k is the turn-th."""

    label: int | None
    turn: int
    number: int


@dataclass(frozen=True)
class Choice:
    """The candidates of a class that are kept, the best first: index, score, and tokens (n, l)."""

    index: np.ndarray
    score: np.ndarray
    tokens: np.ndarray


def run_rejection(job: SamplingJob, *, progress: bool = True) -> None:
    """Draw and score this process's candidates, and write the best of each class for which no candidate is missing.

    The last process finds all classes so, and notes what was chosen in the manifest.
    """
    scores: Mapping[str, dict] = job.manifest["scores"]
    todo = [block for block in job.options.shard.part(_blocks(job, job.classes)) if _is_open(job, block, scores)]
    with output(job.folder, sum(len(_indices(job, block)) for block in todo), progress=progress) as (write, bar):
        _draw_candidates(job, todo, bar)
        _write_again(job, scores, write)
        choices = _write_chosen(job, scores, write)
    if len(choices) + sum(label_name(label) in scores for label in job.classes) == len(job.classes):
        with explained(job.folder):
            _finish(job, choices)
    else:
        logger.info("%s: candidates of other processes are missing, the last of them writes the images", job.folder)


def remove_candidates(job: SamplingJob) -> None:
    """Forget the candidates of the job's classes."""
    for label in job.classes:
        shutil.rmtree(job.folder / CANDIDATES / label_name(label), ignore_errors=True)
    folder = job.folder / CANDIDATES
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _blocks(job: SamplingJob, labels: Sequence[int | None]) -> Iterator[Block]:
    """Those of all processes, in an order that does not depend on what is finished."""
    for turn in range(len(job.options.top_ks)):
        for label in labels:
            size = len(range(turn, job.options.n_candidates, len(job.options.top_ks)))
            yield from (Block(label, turn, number) for number in range(-(-size // CANDIDATES_PER_FILE)))


def _indices(job: SamplingJob, block: Block) -> range:
    of_one_k = range(block.turn, job.options.n_candidates, len(job.options.top_ks))
    return of_one_k[block.number * CANDIDATES_PER_FILE :][:CANDIDATES_PER_FILE]


def _block_of(job: SamplingJob, key: Key) -> Block:
    place, turn = divmod(key[1], len(job.options.top_ks))
    return Block(key[0], turn, place // CANDIDATES_PER_FILE)


def _path(job: SamplingJob, block: Block) -> Path:
    return job.folder / CANDIDATES / label_name(block.label) / f"{_indices(job, block)[0]:06}.npz"


def _is_open(job: SamplingJob, block: Block, scores: Mapping[str, dict]) -> bool:
    return label_name(block.label) not in scores and not _path(job, block).is_file()


def _draw_candidates(job: SamplingJob, todo: list[Block], bar: tqdm) -> None:
    """Sample and score all candidates of these blocks, and write each block once it is complete."""
    for block in todo:
        _path(job, block).parent.mkdir(parents=True, exist_ok=True)
    drawn: dict[Block, list[tuple[int, float, np.ndarray]]] = {}

    def keys() -> Iterator[Key]:
        return ((block.label, index) for block in todo for index in _indices(job, block))

    for batch, images, tokens in sample_batches(job.model, keys, **job.draw_options):
        rows = zip(batch, _scores(job, batch, images), tokens.cpu().numpy(), strict=True)
        for key, score, row in rows:
            block = _block_of(job, key)
            drawn.setdefault(block, []).append((key[1], score, row))
            if len(drawn[block]) == len(_indices(job, block)):
                _save(_path(job, block), *zip(*drawn.pop(block), strict=True))
        bar.update(len(batch))


def _scores(job: SamplingJob, keys: list[Key], images: Tensor) -> list[float]:
    """The score of each image; NaN counts as the worst. Raises ValueError for a score of another form."""
    labels = torch.tensor([-1 if label is None else label for label, _ in keys], device=images.device)
    scores = job.score(images.clamp(-1, 1), labels)
    if scores.shape != (len(keys),):
        raise ValueError(f"the score of {len(keys)} images must have shape ({len(keys)},), not {tuple(scores.shape)}")
    return scores.detach().cpu().double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).tolist()


def _save(path: Path, index: tuple, score: tuple, tokens: tuple) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, index=np.array(index), score=np.array(score), tokens=np.stack(tokens).astype(np.int32))


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return dict(content)


def _choose(job: SamplingJob, label: int | None) -> Choice | None:
    """The best candidates of a class; equal ones by their index. None if candidates are missing."""
    try:
        blocks = [_load(_path(job, block)) for block in _blocks(job, [label])]
    except FileNotFoundError:  # not drawn yet, or another process has finished the job in this moment
        return None
    index, score, tokens = (np.concatenate([block[name] for block in blocks]) for name in ("index", "score", "tokens"))
    best = np.lexsort((index, -score))[: job.options.num_samples]
    return Choice(index[best], score[best], tokens[best])


def _write_chosen(job: SamplingJob, scores: Mapping[str, dict], write: Write) -> dict[int | None, Choice]:
    """Choose from the classes that are complete, and write what has no file yet; returns the choices."""
    choices = {}
    for label in job.classes:
        choice = None if label_name(label) in scores else _choose(job, label)
        if choice is not None:
            choices[label] = choice
            _write_images(job, label, choice.tokens, write)
    return choices


@torch.no_grad()
def _write_images(job: SamplingJob, label: int | None, tokens: np.ndarray, write: Write) -> None:
    missing = iter([i for i in range(len(tokens)) if not job.file((label, i)).is_file()])
    while batch := list(islice(missing, job.options.batch_size)):
        chosen = torch.from_numpy(tokens[batch]).to(job.model.device, torch.int64)
        images = job.model.decode_to_img(chosen, (len(batch), *job.shape))
        for i, image in zip(batch, to_uint8(images), strict=True):
            write(job.file((label, i)), image)


def _write_again(job: SamplingJob, scores: Mapping[str, dict], write: Write) -> None:
    """Sample again the files that are gone of classes that were chosen from before."""
    files = {}
    for label, i in job.remaining():
        if label_name(label) in scores:
            files[label, scores[label_name(label)]["index"][i]] = job.file((label, i))
    for keys, images, _ in sample_batches(job.model, lambda: iter(files), **job.draw_options):
        for key, image in zip(keys, to_uint8(images), strict=True):
            write(files[key], image)


def _finish(job: SamplingJob, choices: Mapping[int | None, Choice]) -> None:
    """Note in the manifest what was chosen, after which the candidates are of no use any more."""
    path = job.folder / MANIFEST
    manifest = read_manifest(path)
    for label, choice in choices.items():
        manifest["scores"][label_name(label)] = {"index": choice.index.tolist(), "score": choice.score.tolist()}
    write_manifest(path, manifest)
    remove_candidates(job)
