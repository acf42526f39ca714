"""A data set of pre-computed codes: second stages train on it without running the tokenizers."""

import os
import random

import torch
from torch import Tensor
from torch.utils.data import Dataset

from taming.data.token_files import TokenCache

RANDOM_VIEW = "random"


class CachedTokens(Dataset):
    """The codes of one split that scripts/extract_codes.py has written to `folder`.

    Items: `image_codes` int64 (l,) in row-major order, `cond_codes` int64 (m,), `index` and `token_cache`, the folder,
    by which a model finds out whether the codes are its own tokenizer's. `view` selects one of the augmented views of
    each image, "random" one at each access, drawn from Python's `random` as augmentations are.

    Raises FileNotFoundError for a folder without codes, ValueError for shards that are missing or damaged and for a
    view that is not there.
    """

    def __init__(self, folder: str | os.PathLike, view: str | int = RANDOM_VIEW) -> None:
        self.cache = TokenCache(folder)
        views = self.cache.metadata.views
        if view != RANDOM_VIEW and not (type(view) is int and 0 <= view < views):
            raise ValueError(
                f"view is {view!r}: expected {RANDOM_VIEW} or a number below {views}, the views in {folder}"
            )
        self.view = view

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, index: int) -> dict[str, Tensor | int | str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        view = random.randrange(self.cache.metadata.views) if self.view == RANDOM_VIEW else self.view
        image, cond = (torch.from_numpy(self.cache.codes(index, view, kind)) for kind in ("image", "cond"))
        return {"image_codes": image, "cond_codes": cond, "index": index, "token_cache": self.cache.folder}
