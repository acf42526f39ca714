"""Messages about configurations: where a value came from, what is wrong with it, and the nearest valid name."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

SOURCES = "_sources"
"""Entry in the `__dict__` of a merged config's root: full key of a leaf -> name of the source that set it."""


class ConfigError(ValueError):
    """A mistake in a configuration. The message is one line: source, full key, value, what is wrong, how to mend it.

    key is the full key (`model.params.n_embed`) if the message names one.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key

    def __str__(self) -> str:
        return self.args[0]  # KeyError, a base of MissingKeyError, would quote it


class MissingKeyError(ConfigError, KeyError):
    """A required key is absent."""


class ConfiguredFileNotFoundError(ConfigError, FileNotFoundError):
    """A file that a configuration names does not exist."""


def config_error(
    config: Mapping[str, Any], key: str, problem: str, *, where: str = "", kind: type[ConfigError] = ConfigError
) -> ConfigError:
    """The error about `key` of the section `config`; `where` is the section's own full key if it is a plain dict."""
    path, source = key_path(config, key, where=where), source_of(config, key)
    return kind(f"{f'{source}: ' if source else ''}{path}{_shown(config, key)}: {problem}", key=path)


def _shown(config: Mapping[str, Any], key: str) -> str:
    """` = value` for a value that is not a section."""
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False)
    value = config.get(key)
    return "" if value is None or isinstance(value, Mapping) else f" = {value}"


def key_path(config: Mapping[str, Any], key: str = "", *, where: str = "") -> str:
    """The full key of `key` in `config`, or of `config` itself: `data.params.train.params.size`.

    A node of a configuration knows its place; a plain dict is at `where`.
    """
    if not isinstance(config, DictConfig):
        return f"{where}.{key}".strip(".")
    path, node = f".{key}" if key else "", config
    while node is not None and node._key() is not None:
        parent = node._get_parent()
        path = (f"[{node._key()}]" if isinstance(parent, ListConfig) else f".{node._key()}") + path
        node = parent
    return path.removeprefix(".")


def source_of(config: Mapping[str, Any], key: str = "") -> str:
    """The source that set `key` of `config`: a file's path, or "command line"; empty if `config` is not from a file.

    For a section, all sources that set something in it; for an absent key, those of the section that should have it.
    """
    if not isinstance(config, DictConfig):
        return ""
    sources = config._get_root().__dict__.get(SOURCES, {})
    path = key_path(config, key)
    while True:
        found = [name for leaf, name in sources.items() if leaf == path or leaf.startswith(f"{path}.") or not path]
        if found or not path:
            return ", ".join(dict.fromkeys(filter(None, found)))
        path = re.sub(r"(^|\.)[^.\[]+$|\[\d+\]$", "", path)


def suggestion(name: str, names: Collection[str], *, limit: int | None = None) -> str:
    """The end of a message about the unknown `name`: the nearest valid one, and all of them if they are few."""
    near = nearest(name, names, limit=limit)
    listed = ", ".join(names)
    return (f"; did you mean {near}?" if near else "") + (f" (valid: {listed})" if 0 < len(listed) < 200 else "")


def typo_limit(name: str) -> int:
    """The edit distance up to which an unknown name that would be allowed counts as a slip for a known one."""
    return 1 + len(name) // 8


def nearest(name: str, names: Collection[str], *, limit: int | None = None) -> str | None:
    """The one of `names` with the smallest edit distance to `name`, case ignored; None if all are farther than `limit`.

    The limit is a third of the name's length if not given, and at least 2.
    """
    limit = max(2, len(name) // 3) if limit is None else limit
    distances = {valid: edit_distance(name.lower(), valid.lower()) for valid in names}
    best = min(distances, key=distances.__getitem__, default=None)
    return best if best is not None and distances[best] <= limit else None


def edit_distance(a: str, b: str) -> int:
    """The fewest insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def one_line(error: BaseException) -> str:
    """An exception's message without line breaks, error numbers and OmegaConf's internals."""
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {str(error).splitlines()[0]}" if error.full_key else str(error).splitlines()[0]
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line) or type(error).__name__
