"""Captions as conditioning.

b batch, n bytes, l tokens of a caption.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taming.images import from_uint8, text_picture
from taming.modules.util import AbstractEncoder
from taming.vocabulary import END, FIRST_MERGE, MAKE_IT, PAD, Vocabulary, bytes_text, check_size


class CaptionStage(AbstractEncoder):
    """Captions, as the UTF-8 bytes that data sets give, become `length` tokens below `vocab_size`.

    A caption ends with END and is filled up with PAD; of a longer one the beginning is kept. The vocabulary is a part
    of the weights: it is read from the file `vocabulary` where there is one, and a checkpoint brings its own. So
    whoever samples needs no file beside the checkpoint.

    Raises ValueError for sizes that leave no room, and for a file that is none or has more than vocab_size tokens.
    """

    def __init__(self, length: int, vocab_size: int, vocabulary: str | None = None) -> None:
        super().__init__()
        if length < 2:
            raise ValueError(f"length={length}: a caption needs a token and its end")
        check_size(vocab_size)
        self.length, self.vocab_size, self.path = length, vocab_size, vocabulary
        merges = torch.full((vocab_size - FIRST_MERGE, 2), -1, dtype=torch.int32)
        if vocabulary is not None and Path(vocabulary).is_file():
            found = Vocabulary.read(vocabulary)
            if len(found) > vocab_size:
                raise ValueError(
                    f"{vocabulary}: has {len(found)} tokens; raise vocab_size={vocab_size} or make another"
                )
            merges[: len(found.merges)] = torch.tensor(found.pairs(), dtype=torch.int32)
        self.register_buffer("merges", merges)
        self._vocabulary: Vocabulary | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the weights. Raises ValueError if neither file nor checkpoint has given one."""
        if self._vocabulary is None:
            pairs = self.merges[self.merges[:, 0] >= 0].tolist()
            if not pairs:
                raise ValueError(f"{self.path}: no such vocabulary of captions; {MAKE_IT}")
            self._vocabulary = Vocabulary.from_pairs(pairs)
        return self._vocabulary

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._vocabulary = None

    def encode(self, c: Tensor) -> tuple[Tensor, None, tuple[None, None, Tensor]]:
        """Bytes uint8 (b, n) of captions -> tokens int64 (b, l), in the (quant, loss, info) form of a quantizer."""
        if c.dtype != torch.uint8 or c.ndim != 2:
            raise ValueError(
                f"captions come as bytes, uint8 (batch, n), not {c.dtype} {tuple(c.shape)}: set cond_stage_key to "
                "caption_bytes, and use a data set of taming.data.captions"
            )
        rows = [self._row(bytes_text(row)) for row in c.cpu().numpy()]
        tokens = torch.tensor(rows, dtype=torch.int64, device=c.device).view(len(rows), self.length)
        return tokens, None, (None, None, tokens)

    def _row(self, caption: str) -> list[int]:
        tokens = [*self.vocabulary.encode(caption)[: self.length - 1], END]
        return tokens + [PAD] * (self.length - len(tokens))

    def n_tokens(self, caption: str) -> int:
        """How many tokens a caption has with its end; those beyond `length` are cut."""
        return len(self.vocabulary.encode(caption)) + 1

    def decode(self, tokens: Tensor) -> Tensor:
        """What tokens (b, l) say as pictures (b, 3, h, w) in [-1, 1] to look at."""
        pictures = np.stack([text_picture(caption) for caption in self.captions_of(tokens)])
        return from_uint8(pictures).to(tokens.device)

    def captions_of(self, tokens: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """What tokens (b, l) say."""
        return [self.vocabulary.decode(row) for row in torch.as_tensor(tokens).tolist()]
