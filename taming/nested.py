"""Values inside nested mappings and lists by a path such as `a/b/0`."""

from collections.abc import Mapping, Sequence
from typing import Any


class KeyNotFoundError(Exception):
    """A path leads nowhere: its cause, all its parts and those that could be followed."""

    def __init__(
        self, cause: Exception, keys: Sequence[str] | None = None, visited: Sequence[str] | None = None
    ) -> None:
        self.cause = cause
        self.keys = keys
        self.visited = visited
        lines = []
        if keys is not None:
            lines.append(f"Key not found: {keys}")
        if visited is not None:
            lines.append(f"Visited: {visited}")
        super().__init__("\n".join([*lines, "Cause:", str(cause)]))


def retrieve(
    list_or_dict: Any,
    key: str,
    splitval: str = "/",
    default: Any = None,
    expand: bool = True,
    pass_success: bool = False,
) -> Any:
    """The value at a path: parts index mappings by key and lists by number. With `pass_success`, (value, found).

    A callable on the path is called without arguments and its result takes its place, there and in its parent; with
    expand=False it is returned where the path ends, and cannot be passed through. Raises KeyNotFoundError in that case,
    and for a path that leads nowhere unless there is a `default`.
    """
    parts = key.split(splitval)
    visited: list[str] = []
    try:
        value = _follow(list_or_dict, parts, visited, expand=expand)
    except (KeyError, IndexError, ValueError) as error:
        if default is None:
            raise KeyNotFoundError(error, keys=parts, visited=visited) from error
        return (default, False) if pass_success else default
    return (value, True) if pass_success else value


def _follow(node: Any, parts: Sequence[str], visited: list[str], *, expand: bool) -> Any:
    """Walk from `node`, noting in `visited` each part that leads on."""
    if expand and callable(node):
        node = node()
    for part in parts:
        if callable(node) and not expand:
            cause = ValueError("the path leads through a callable, which expand=False does not call")
            raise KeyNotFoundError(cause, keys=parts, visited=visited)
        index = _index(node, part)
        child = node[index]
        if expand and callable(child):
            child = node[index] = child()
        node = child
        visited.append(part)
    return node


def _index(node: Any, part: str) -> str | int:
    """What `part` means to `node`. Raises KeyError where nothing can lie below."""
    if isinstance(node, Mapping):
        return part
    if isinstance(node, str) or not hasattr(node, "__getitem__"):
        raise KeyError(f"{part} (below a {type(node).__name__})")
    return int(part)
