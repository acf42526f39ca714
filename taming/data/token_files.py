"""Pre-computed codes on disk: a folder per split that holds `tokens.json` and shards, each complete or absent.

n examples of a shard, k views of each, l image codes, m conditioning codes: a shard is two .npy files of unsigned
integers, <number>.image.npy (n, k, l) and <number>.cond.npy (n, k, m).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taming.config_errors import one_line
from taming.files import atomic_path

METADATA = "tokens.json"
FORMAT = 1
KINDS = ("image", "cond")
EXTRACTION = "python scripts/extract_codes.py"
NAMED_SHARDS = 3


@dataclass(frozen=True)
class TokenMetadata:
    """What `tokens.json` says about the codes of a split.

    vocabulary is the transformer's: all codes are smaller. latent_shape is (d, h, w) of the first stage, cond_shape
    that of the quantized conditioning without its batch axis. tokenizer is the hash of what made the codes; data and
    model are sections of its config, command is how to go on with it.
    """

    split: str
    examples: int
    views: int
    shard_size: int
    seed: int
    precision: str
    vocabulary: int
    image_tokens: int
    latent_shape: list[int]
    cond_tokens: int
    cond_shape: list[int]
    tokenizer: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    format: int = FORMAT

    @property
    def n_shards(self) -> int:
        return -(-self.examples // self.shard_size)

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer that holds every code."""
        return np.min_scalar_type(self.vocabulary - 1)

    def examples_of(self, shard: int) -> range:
        """Indices of the examples in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.examples))

    def shape_of(self, shard: int, kind: str) -> tuple[int, int, int]:
        """Shape (n, k, l) of a shard's image codes, (n, k, m) of its conditioning codes."""
        tokens = {"image": self.image_tokens, "cond": self.cond_tokens}[kind]
        return len(self.examples_of(shard)), self.views, tokens


def read_metadata(folder: str | os.PathLike) -> TokenMetadata:
    """The metadata of a folder. Raises FileNotFoundError if it has none, ValueError if it cannot be read."""
    path = Path(folder, METADATA)
    if not path.is_file():
        below = sorted(Path(folder).glob(f"*/{METADATA}"))
        hint = f"did you mean {below[0].parent}?" if below else f"make codes with {EXTRACTION}"
        raise FileNotFoundError(f"{folder}: no pre-computed codes here, {METADATA} is missing; {hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ValueError(f"format {content.get('format')}, known is {FORMAT}")
        return TokenMetadata(**content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the metadata of codes ({one_line(error)}); extract to another folder") from error


def write_metadata(folder: str | os.PathLike, metadata: TokenMetadata) -> None:
    """Write `tokens.json`, and the folder if it is not there."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with atomic_path(Path(folder, METADATA)) as path:
        path.write_text(json.dumps(asdict(metadata), indent=2) + "\n", encoding="utf-8")


def shard_path(folder: str | os.PathLike, shard: int, kind: str) -> Path:
    return Path(folder, f"{shard:05}.{kind}.npy")


def write_shard(
    folder: str | os.PathLike, metadata: TokenMetadata, shard: int, codes: Mapping[str, np.ndarray]
) -> None:
    """Write the codes (n * k, l) and (n * k, m) of one shard, examples in order, the views of each together."""
    for kind in KINDS:
        array = codes[kind].astype(metadata.dtype).reshape(metadata.shape_of(shard, kind))
        with atomic_path(shard_path(folder, shard, kind)) as path, open(path, "wb") as file:
            np.save(file, array)


def open_shard(folder: str | os.PathLike, metadata: TokenMetadata, shard: int, kind: str) -> np.ndarray:
    """One file of a shard, mapped into memory. Raises FileNotFoundError, and ValueError for a damaged file."""
    path = shard_path(folder, shard, kind)
    try:
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # damaged bytes upset the reader of the header in any way
        raise ValueError(f"{path}: damaged ({one_line(error)})") from error
    expected = (metadata.dtype, metadata.shape_of(shard, kind))
    if (codes.dtype, codes.shape) != expected:
        raise ValueError(f"{path}: damaged ({codes.dtype} {codes.shape} instead of {expected[0]} {expected[1]})")
    return codes


def shard_problems(folder: str | os.PathLike, metadata: TokenMetadata) -> dict[int, str | None]:
    """The shards that are not to be used: None for a missing one, what is wrong with a damaged one."""
    problems: dict[int, str | None] = {}
    for shard in range(metadata.n_shards):
        try:
            for kind in KINDS:
                open_shard(folder, metadata, shard, kind)
        except FileNotFoundError:
            problems[shard] = None
        except ValueError as error:
            problems[shard] = str(error)
    return problems


class TokenCache:
    """A complete folder of codes. Raises FileNotFoundError or ValueError for one that is not."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = str(folder)
        self.metadata = read_metadata(folder)
        self._mapped: dict[tuple[int, str], np.ndarray] = {}
        if problems := shard_problems(folder, self.metadata):
            raise ValueError(_incomplete(self.folder, self.metadata, problems))

    def __len__(self) -> int:
        return self.metadata.examples

    def codes(self, index: int, view: int, kind: str) -> np.ndarray:
        """Codes int64 (l,) of the kind "image", (m,) of the kind "cond", of one view of an example."""
        shard, row = divmod(index, self.metadata.shard_size)
        if (shard, kind) not in self._mapped:
            self._mapped[shard, kind] = open_shard(self.folder, self.metadata, shard, kind)
        return self._mapped[shard, kind][row, view].astype(np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}  # a mapped file would reach another process as a copy of its content


def _incomplete(folder: str, metadata: TokenMetadata, problems: Mapping[int, str | None]) -> str:
    damage = next(filter(None, problems.values()), None)
    if damage is not None:
        return f"{damage}; write it again with: {metadata.command}"
    names = ", ".join(f"{shard:05}" for shard in list(problems)[:NAMED_SHARDS])
    more = f" and {len(problems) - NAMED_SHARDS} more" if len(problems) > NAMED_SHARDS else ""
    return (
        f"{folder}: {len(problems)} of {metadata.n_shards} shards are missing ({names}{more}); "
        f"finish the extraction with: {metadata.command}"
    )
