"""The options of sampling jobs, and the groups of flags that the sampling commands share."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from taming.cli import PRECISIONS
from taming.sampling.filtering import check_filters
from taming.sampling.samples import check_guidance
from taming.shards import WHOLE, Shard

MAX_SEED = 2**128 - 1

TopK = int | None | str | Sequence[int]
"""One k, none, or several (a string: separated by commas) that the indices of samples take in turn."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What every sampling job can be asked for. Raises ValueError for values out of range.

    Without a seed it is the one that the job's folder records, or else a random one. precision is recorded only: who
    runs the job sets it up (`at_precision`). overwrite is for a single process: several could not agree on what is old.
    """

    seed: int | None = None
    temperature: float = 1.0
    top_k: TopK = None
    top_p: float = 1.0
    batch_size: int = 1
    overwrite: bool = False
    shard: Shard = WHOLE
    precision: str = "32"

    def __post_init__(self) -> None:
        check_filters(self.temperature, self.top_p)
        parse_top_k(self.top_k)
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must lie between 0 and 2**128 - 1, not {self.seed}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be positive, not {self.batch_size}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision}")
        if self.overwrite and self.shard.count > 1:
            raise ValueError(f"overwrite with {self.shard.count} processes: delete the job's folder instead")

    @property
    def top_ks(self) -> tuple[int, ...]:
        """The values of k, at least one; 0 is off."""
        return parse_top_k(self.top_k)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(JobOptions):
    """The options of jobs without a data set: num_samples per class, or in all if unconditional.

    acceptance_rate below 1 draws ceil(num_samples / acceptance_rate) candidates and keeps the best.
    """

    num_samples: int
    top_k: TopK = 250
    batch_size: int = 25
    guidance_scale: float = 1.0
    acceptance_rate: float = 1.0
    compile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_samples(self.num_samples)
        check_guidance(self.guidance_scale)
        if not 0 < self.acceptance_rate <= 1:
            raise ValueError(f"acceptance_rate must lie in (0, 1], not {self.acceptance_rate}; 1 keeps all")

    @property
    def n_candidates(self) -> int:
        """How many samples of a class are drawn, ceil(num_samples / acceptance_rate)."""
        return math.ceil(round(self.num_samples / self.acceptance_rate, 6))  # 7 / 0.07 is not quite 100


def check_num_samples(num_samples: int) -> None:
    """Raises ValueError for less than one."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be positive, not {num_samples}")


def parse_top_k(top_k: TopK) -> tuple[int, ...]:
    """The values of k, 0 for None. Raises ValueError for a string that is no list of integers, and for no values."""
    if isinstance(top_k, str):
        items = [item.strip() for item in top_k.removesuffix(",").split(",")]
        if not all(re.fullmatch("-?[0-9]+", item) for item in items):
            raise ValueError(f"top_k: {top_k!r} is neither a number of tokens nor a list such as 100,200,300")
        return tuple(map(int, items))
    if top_k is None or isinstance(top_k, int):
        return (top_k or 0,)
    if not top_k:
        raise ValueError("top_k: the list is empty")
    return tuple(map(int, top_k))


def add_filter_options(parser: argparse.ArgumentParser, *, top_k: int, fast: bool = False) -> None:
    """Add --top_k, --temperature and --top_p. sample_fast.py's are also -k, -t and -p, and k may be a list."""

    def add(flag: str, name: str, **options) -> None:
        parser.add_argument(*([flag] if fast else []), name, **options)

    text = "; of a list such as 100,200 samples take turns" if fast else ""
    add(
        "-k", "--top_k", default=str(top_k), help=f"draw from the k likeliest tokens, 0 is off{text} (default: {top_k})"
    )
    add("-t", "--temperature", type=float, default=1.0, help="divides the logits (default: %(default)s)")
    add("-p", "--top_p", type=float, default=1.0, help="draw from the nucleus of this probability (default: 1.0, off)")


def add_job_options(parser: argparse.ArgumentParser, *, batch_size: int, seed: int | None = None) -> None:
    """Add --batch_size, --seed, whose default is new numbers unless there is one, --overwrite and --shard."""
    add = parser.add_argument
    text = "samples computed together; has no influence on them"
    add("--batch_size", type=int, default=batch_size, help=f"{text} (default: {batch_size})")
    text = "those of the folder's sampling.json, or new ones" if seed is None else seed
    add("--seed", type=int, default=seed, help=f"the random numbers (default: {text})")
    add("--overwrite", action="store_true", help="sample again what has a file already")
    add("--shard", metavar="I/N", help="the I-th of N processes, from 0, that share the work (default: torchrun's)")
