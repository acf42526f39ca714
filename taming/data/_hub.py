"""Networks of other projects, which torch.hub downloads."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

import torch


@contextmanager
def explaining_downloads(what: str) -> Iterator[None]:
    """Within the block a download that fails raises OSError with `what` was wanted and where it may be placed."""
    try:
        yield
    except URLError as error:
        raise OSError(
            f"{what} could not be downloaded ({error.reason}); on a machine without network use a copy of torch.hub's "
            f"folder, {torch.hub.get_dir()} (TORCH_HOME moves it), from one where the same command has run"
        ) from error
