"""Byte pair encoding of text: words and their parts as tokens below a chosen size, so that no text is unknown.

Merges of bytes (Sennrich et al. 2016; Radford et al. 2019) are all that a vocabulary is: the tokens are PAD, END, the
256 bytes, and what each merge makes. The package `tokenizers` finds and applies them.
"""

import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from taming.files import atomic_path

PAD, END = 0, 1
"""Tokens that stand for no text at all, and for the end of one."""
FIRST_BYTE = 2
FIRST_MERGE = FIRST_BYTE + 256
HEADER = "#version: 0.2"
"""First line of the files in which GPT-2's and CLIP's merges are published, too."""
MAKE_IT = "make one with: python scripts/make_vocabulary.py --base <config>"


class Vocabulary:
    """Encodes text by merges of tokens, in the order in which they are applied; merge k makes token FIRST_MERGE + k.

    Bytes are written as GPT-2 does, a space as `Ġ`. Raises ValueError for a merge of tokens that nothing before it
    makes, and ImportError without the package.
    """

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        self.merges = list(merges)
        package = _package()
        self._ids = {byte: FIRST_BYTE + i for i, byte in enumerate(_bytes(package))}
        for number, (left, right) in enumerate(self.merges):
            if left not in self._ids or right not in self._ids:
                raise ValueError(f"merge {number + 1}, {left} {right}, joins a token that no merge before it makes")
            self._ids.setdefault(left + right, FIRST_MERGE + number)
        self._tokenizer = package.Tokenizer(package.models.BPE(vocab=self._ids, merges=self.merges))
        self._tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=True)
        self._tokenizer.decoder = package.decoders.ByteLevel()

    def __len__(self) -> int:
        return FIRST_MERGE + len(self.merges)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, of which case, forms of the same letter and the amount of white space do not count."""
        return self._tokenizer.encode(normalized(text)).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text before the first END; what no complete character begins with becomes a replacement character."""
        text = list(tokens)
        if END in text:
            text = text[: text.index(END)]
        return self._tokenizer.decode([token for token in text if token >= FIRST_BYTE]).strip()

    def pairs(self) -> list[tuple[int, int]]:
        """The merges as pairs of tokens."""
        return [(self._ids[left], self._ids[right]) for left, right in self.merges]

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]]) -> "Vocabulary":
        """Inverse of `pairs`."""
        names = ["", "", *_bytes(_package())]
        merges = []
        for left, right in pairs:
            merges.append((names[left], names[right]))
            names.append(names[left] + names[right])
        return cls(merges)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "Vocabulary":
        """The merges that shorten these texts most, at most as many as make `size` tokens.

        Raises ValueError for a size without room for any, and for texts in which nothing occurs twice.
        """
        check_size(size)
        package = _package()
        tokenizer = package.Tokenizer(package.models.BPE())
        tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = package.trainers.BpeTrainer(
            vocab_size=size - FIRST_BYTE, min_frequency=2, initial_alphabet=_bytes(package), show_progress=False
        )
        tokenizer.train_from_iterator(map(normalized, texts), trainer)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        if not merges:
            raise ValueError("no two letters stand together twice in these texts: give more of them")
        return cls(map(tuple, merges[: size - FIRST_MERGE]))

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Vocabulary":
        """The merges in a text file, a pair per line; FileNotFoundError or ValueError if that is not what it is."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: no such vocabulary; {MAKE_IT}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text file in UTF-8; {MAKE_IT}") from error
        merges = []
        for number, line in enumerate(lines, start=1):
            if line and not (number == 1 and line.startswith("#version")):
                if len(pair := line.split(" ")) != 2:
                    raise ValueError(f"{path}, line {number}: expected two tokens of a merge, not {line!r}; {MAKE_IT}")
                merges.append(tuple(pair))
        try:
            return cls(merges)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; {MAKE_IT}") from None

    def write(self, path: str | os.PathLike) -> None:
        """Write the file that `read` reads; it appears when it is complete."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lines = [HEADER, *(" ".join(pair) for pair in self.merges)]
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_size(size: int) -> None:
    """Raises ValueError for a size that holds bytes only."""
    if size <= FIRST_MERGE:
        raise ValueError(f"a vocabulary of {size} tokens has no room for words: use more than {FIRST_MERGE}")


def normalized(text: str) -> str:
    """The text in lower case, with single spaces and one form for each character."""
    text = text.encode(errors="replace").decode()  # a command line may hold what no UTF-8 is
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def text_bytes(texts: Sequence[str], size: int | None = None) -> np.ndarray:
    """Texts as UTF-8, uint8 (n, size), filled up with 0; longer ones are cut, by default none is."""
    rows = [text.replace("\0", " ").encode(errors="replace") for text in texts]
    size = max(map(len, rows), default=0) if size is None else size
    table = np.zeros((len(rows), size), np.uint8)
    for row, content in zip(table, rows, strict=True):
        kept = content[:size].decode(errors="ignore").encode()  # no half of a character
        row[: len(kept)] = np.frombuffer(kept, np.uint8)
    return table


def bytes_text(row: np.ndarray) -> str:
    """The text of one row of `text_bytes`."""
    return row.tobytes().rstrip(b"\0").decode(errors="replace")


def _bytes(package: ModuleType) -> list[str]:
    """The characters that stand for the 256 bytes, in a fixed order."""
    return sorted(package.pre_tokenizers.ByteLevel.alphabet())


def _package() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("captions need a package: pip install 'taming-transformers[text]' (tokenizers)") from error
    return tokenizers
