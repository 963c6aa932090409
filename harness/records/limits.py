"""Limits of the readers: a damaged or hostile file costs its own run, never the process or its memory."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

LARGEST_TEXT = 20_000_000  # bytes of a manifest, a configuration or a sweep's record
LARGEST_ROWS = 2_000_000_000  # bytes of metrics.jsonl or eval.jsonl
LARGEST_SCHEDULE = 200_000_000  # bytes of schedule.jsonl, all of which is held: a million batches
LARGEST_SAMPLES = 4_000_000  # bytes at the end of samples.jsonl that are looked at
DEEPEST = 32  # braces within each other; ours are three deep
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)  # the last may lack its end: quadratic otherwise
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_bytes(path: Path, most: int) -> bytes:
    """A file's bytes. Raises OSError, and ValueError for one larger than `most` bytes, a pipe, a device or a folder."""
    size = plain_size(path)
    if size > most:
        raise ValueError(f"{path.name} has {size} bytes, at most {most} are read")
    return path.read_bytes()


def plain_size(path: Path) -> int:
    """Size of a file in bytes. Raises OSError, and ValueError for a pipe or a device, which may have no end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name} is no plain file")
    return found.st_size


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, and ValueError for one too large, too deep or not JSON."""
    text = read_bytes(path, LARGEST_TEXT)
    if too_deep(text):
        raise ValueError(f"nested deeper than {DEEPEST}")
    return json.loads(text.decode())


def read_json_lines(path: Path, most: int) -> Iterator[Any]:
    """What each line of a JSONL file holds. Raises OSError, and ValueError for one too large, too deep or not JSON."""
    if (size := plain_size(path)) > most:
        raise ValueError(f"{path.name} has {size} bytes, at most {most} are read")
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LARGEST_TEXT + 1), b""), 1):
            if len(line) > LARGEST_TEXT or too_deep(line):
                raise ValueError(f"line {number} is longer than {LARGEST_TEXT} bytes, or nested deeper than {DEEPEST}")
            yield json.loads(line.decode())


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises OSError, and ValueError for one too large, too deep, with aliases or not YAML."""
    text = read_bytes(path, LARGEST_TEXT).decode()
    try:
        _check_yaml(text)
        return yaml.load(text, Loader=_SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _check_yaml(text: str) -> None:
    """Before the loader sees it: depth ends the process in libyaml, and aliases multiply what they stand for."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("has aliases, which no run writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST}")


def too_deep(text: bytes) -> bool:
    """Whether JSON text nests deeper than DEEPEST."""
    return _has_many_open(text) and _has_many_open(_STRINGS.sub(b"", text))


def _has_many_open(text: bytes) -> bool:
    """Whether more than DEEPEST brackets are open somewhere, those in strings (of a diff, say) counted, too."""
    brackets = np.frombuffer(text.translate(None, _NO_BRACKETS), np.uint8)
    opening = (brackets == ord("[")) | (brackets == ord("{"))
    return bool(len(brackets)) and int(np.cumsum(np.where(opening, 1, -1)).max()) > DEEPEST
