"""Annotation files of COCO: JSON objects whose sections are lists of records."""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any


def read_json(path: str | os.PathLike, dataset: str, hint: str = "", *, unread: Collection[str] = ()) -> dict[str, Any]:
    """The object in a JSON file, without the fields `unread` at any depth.

    Raises FileNotFoundError (which ends with `hint`) for a missing file, ValueError for anything but a JSON object.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return load_json(file, str(path), dataset, unread=unread)
    except FileNotFoundError:
        raise FileNotFoundError(f"{dataset}: file not found: {path}{hint and f'; {hint}'}") from None


def load_json(file: IO, name: str, dataset: str, *, unread: Collection[str] = ()) -> dict[str, Any]:
    """As `read_json`, from an open file that errors call `name`."""

    def without_unread(record: dict[str, Any]) -> dict[str, Any]:
        for field in unread:
            record.pop(field, None)
        return record

    try:
        # Leaving fields out while parsing saves gigabytes of outlines that would be kept in memory until the end.
        content = json.load(file, object_hook=without_unread if unread else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{dataset}: {name} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{dataset}: {name} holds no JSON object but a {type(content).__name__}")
    return content


def records(content: Mapping[str, Any], section: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The records of a section. Raises ValueError if it is missing, or where a record lacks one of the fields."""
    if not isinstance(content.get(section), list):
        raise ValueError(f"no list {section!r}; it is no annotation file of COCO")
    for index, record in enumerate(content[section]):
        missing = [field for field in fields if field not in record]
        if missing:
            raise ValueError(f"{section}[{index}] has no {' and no '.join(map(repr, missing))}")
        yield record
