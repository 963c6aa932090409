"""Rows of a problem set: from the hub through `datasets`, or from a local JSONL or Parquet file of the same shape."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import PROJECT
from harness.errors import UserError, first_line
from harness.models import hub

FORMATS = "a JSONL file (one object a line) or a Parquet file"


@dataclass(frozen=True)
class Source:
    """Where rows come from: a local file if there is a path, else a split of a hub data set.

    hub: name of the data set.
    split: its split.
    columns: those that must be there; "a|b" means either.
    subset: its configuration, if it has several.
    revision: a commit of the data set; None: the newest.
    path: a local file.
    key: the setting that names the path, for messages.
    """

    hub: str
    split: str
    columns: tuple[str, ...]
    subset: str | None = None
    revision: str | None = None
    path: str | None = None
    key: str = "task.path"


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
    file = find_file(source.path, source.key)
    stat = file.stat()
    return _load_file(source, file, stat.st_size, stat.st_mtime_ns)


def find_file(path: str, key: str) -> Path:
    """A file, looked up from where the command is typed and then from the project's root.

    path: relative or absolute.
    key: the setting that names it, for the message.
    Raises UserError if there is none.
    """
    for base in (Path.cwd(), PROJECT):
        if (base / path).is_file():
            return base / path
    raise UserError(f"{key}={path}: no such file; expected {FORMATS}")


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
def _load_file(source: Source, file: Path, size: int, modified: int) -> Rows:
    del size, modified  # part of the cache's key: a file that changed is read again
    rows = _parquet(source, file) if file.suffix == ".parquet" else _jsonl(source, file)
    return _checked(source, rows, str(source.path), None)


def _jsonl(source: Source, file: Path) -> list[dict[str, Any]]:
    rows = []
    with file.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{source.key}={source.path}: line {number} is no JSON object")
                    rows.append(row)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{source.key}={source.path}: line {number} is not JSON ({error}); expected {FORMATS}"
            ) from error
    return rows


def _parquet(source: Source, file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet  # late: only a Parquet file needs it

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{source.key}={source.path}: no Parquet file ({first_line(error)})") from error
    return rows


def _checked(source: Source, rows: list[dict[str, Any]], name: str, version: str | None) -> Rows:
    if not rows:
        raise UserError(f"{source.key}: {name} is empty; expected rows with the columns {_names(source.columns)}")
    for expected in source.columns:
        if not any(column in rows[0] for column in expected.split("|")):
            raise UserError(f"{source.key}: {name} has no column {_names((expected,))}; it has {', '.join(rows[0])}")
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    provenance = {"source": name, "rows": len(rows), "sha256": digest.hexdigest()}
    if source.path is None:
        provenance |= {"revision": source.revision, "version": version}
    return Rows(rows, provenance)


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(column.replace("|", " or ") for column in columns)
