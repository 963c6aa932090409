"""Rows of a problem set: from the hub through `datasets`, or from a local file or folder of the same shape."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import UserError, first_line
from harness.models import hub
from harness.paths import bases
from harness.tasks.columns import VERL, column_names, has_column, is_verl
from harness.tasks.files import FORMATS, Unreadable, read_rows


@dataclass(frozen=True)
class Source:
    """Where rows come from: a local file if there is a path, else a split of a hub data set.

    hub: name of the data set.
    split: its split.
    columns: those that must be there; "a|b" means either, "a.b" is b inside a.
    subset: its configuration, if it has several.
    revision: a commit of the data set; None: the newest.
    path: a local file or folder.
    key: the setting that names the path, for messages.
    all_columns: whether the others are needed too.
    """

    hub: str
    split: str
    columns: tuple[str, ...]
    subset: str | None = None
    revision: str | None = None
    path: str | None = None
    key: str = "task.path"
    all_columns: bool = False


@dataclass(frozen=True)
class Rows:
    """What was read.

    rows: the records.
    provenance: source, revision, number of rows and content hash, for the manifest.
    """

    rows: list[dict[str, Any]]
    provenance: dict[str, Any]


def load(source: Source) -> Rows:
    """Reads, checks and hashes rows; the same source is read once a process.

    source: a local file or a split of a hub data set.
    Raises UserError naming what is missing.
    """
    if source.path is None:
        return _load_hub(source)
    found = find_data(source.path, source.key)
    files = sorted(found.rglob("*")) if found.is_dir() else [found]
    return _load_file(source, found, tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def find_data(path: str, key: str) -> Path:
    """A file or folder, looked up from where the command is typed and then from the project's root.

    path: relative or absolute.
    key: the setting that names it, for the message.
    Raises UserError if there is none.
    """
    for base in bases():
        if (base / path).exists():
            return base / path
    raise UserError(f"{key}={path}: no such file or folder; expected {FORMATS}")


@lru_cache(maxsize=32)
def _load_hub(source: Source) -> Rows:
    import datasets  # late: two seconds that only a hub data set needs

    datasets.disable_progress_bars()
    hub.settle()
    try:
        data = datasets.load_dataset(source.hub, source.subset, split=source.split, revision=source.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        unreachable = isinstance(error, ConnectionError)
        reason = "the hub cannot be reached and no copy is cached" if unreachable else first_line(error)
        raise UserError(
            f"{source.hub}: cannot be loaded ({reason}); without network give "
            f"{source.key}=FILE, {FORMATS} with the columns {_names(source.columns)}"
        ) from error
    return _checked(source, [dict(row) for row in data], f"{source.hub}:{source.split}", str(data.info.version))


@lru_cache(maxsize=32)
def _load_file(source: Source, found: Path, state: tuple[tuple[int, int], ...]) -> Rows:
    del state  # sizes and times, part of the cache's key: a file that changed is read again
    split = {"task.validation_path": "validation", "task.test_path": "test"}.get(source.key, "train")
    try:
        rows = read_rows(found, lambda names: _needed(names, source), split)
    except Unreadable as error:
        raise UserError(f"{source.key}={source.path}: {error}") from error
    except OSError as error:
        raise UserError(f"{source.key}={source.path}: cannot be read ({error.strerror})") from error
    return _checked(source, rows, str(source.path), None)


def _checked(source: Source, rows: list[dict[str, Any]], name: str, version: str | None) -> Rows:
    if not rows:
        raise UserError(f"{source.key}: {name} is empty; expected rows with the columns {_names(source.columns)}")
    for expected in () if is_verl(rows[0], source.columns) else source.columns:
        if not any(has_column(rows[0], column) for column in expected.split("|")):
            raise UserError(
                f"{source.key}: {name} has no column {_names((expected,))}; it has {', '.join(column_names(rows[0]))}"
            )
    if not source.all_columns:
        rows = [{column: row[column] for column in _needed(list(row), source)} for row in rows]
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    provenance = {"source": name, "rows": len(rows), "sha256": digest.hexdigest()}
    if source.path is None:
        provenance |= {"revision": source.revision, "version": version}
    return Rows(rows, provenance)


def _needed(names: list[str], source: Source) -> list[str]:
    """The columns that problems and answers stand in; all of them where one is missing, for the message."""
    asked = [one for columns in source.columns for one in columns.split("|")]
    roots = {root for one in (*asked, *VERL) for root in (one, one.split(".")[0])}
    is_there = all(any({one, one.split(".")[0]} & set(names) for one in cs.split("|")) for cs in source.columns)
    is_verl_layout = {column.split(".")[0] for column in VERL} <= set(names)
    return [name for name in names if source.all_columns or name in roots or not (is_there or is_verl_layout)]


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(column.replace("|", " or ") for column in columns)
