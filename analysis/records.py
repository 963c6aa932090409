"""Read one run folder into tables, and keep them in a Parquet cache.

The folder is the record of truth and is never written to. The cache lives in `$LAGRANGE_CACHE`
(default: `$XDG_CACHE_HOME/lagrange`, `~/.cache/lagrange`); an entry counts only while name, size and
modification time of every file it came from are unchanged. A cache that cannot be written is done without.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from analysis.errors import first_line, masked
from analysis.old_names import current
from analysis.plain import printable
from harness.records import limits
from harness.records.layout import CONFIG, EVAL, MANIFEST, METRICS, cache_folder

_FILES = (MANIFEST, CONFIG, METRICS, EVAL)
_COUNTS = pa.list_(pa.int64())  # right answers of each problem
_LAYOUT = 6  # raise it when what a cache entry holds changes


class ForeignFolder(Exception):
    """A folder with a manifest.json that no run of this project wrote."""


@dataclass(frozen=True)
class Record:
    """One run folder as read.

    config: flat ("learner.lr": 1e-4), under today's keys.
    updates, evaluations: a row a JSON line, float64 columns.
    notes: what of the folder could not be used, a sentence each.
    """

    folder: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    updates: pa.Table
    evaluations: pa.Table
    notes: list[str] = field(default_factory=list)


def read_record(folder: Path) -> Record:
    """The record of one run folder, from the cache when its files are unchanged.

    Raises ForeignFolder for a folder that no run of this project wrote, or whose records cannot be read.
    """
    signature = _signature(folder)
    entry = cache_folder() / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}.parquet"
    cached = _from_cache(entry, folder, signature)
    if cached is not None:
        return cached
    record = _from_folder(folder)
    _to_cache(entry, record, signature)
    return record


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as a flat one: {"learner": {"lr": 1}} → {"learner.lr": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _from_folder(folder: Path) -> Record:
    notes: list[str] = []
    manifest = _manifest(folder / MANIFEST)
    config = _config(folder / CONFIG)
    updates = read_rows(folder / METRICS, ("update",), notes)
    evaluations = read_rows(folder / EVAL, ("update", "split"), notes)
    return Record(folder, manifest, config, updates, evaluations, notes)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = limits.read_json(path)
    except (OSError, ValueError) as error:
        raise ForeignFolder(f"{MANIFEST} cannot be read ({first_line(error)})") from error
    if not isinstance(manifest, dict) or not {"status", "algorithm"} <= manifest.keys():
        raise ForeignFolder(f"{MANIFEST} is not a run's (no status or no algorithm in it)")
    git = manifest.get("git")
    if isinstance(git, dict):  # the diff can be long, and only whether there is one is shown
        manifest["git"] = f"{git.get('sha', '')}{' + changes' if git.get('diff') or git.get('diff_sha256') else ''}"
    return masked(manifest)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = limits.read_yaml(path)
    except (OSError, ValueError) as error:
        raise ForeignFolder(f"{CONFIG} cannot be read ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise ForeignFolder(f"{CONFIG} is not a mapping")
    flat = masked(current(flatten(config)))
    return {printable(str(key)): printable(value) if isinstance(value, str) else value for key, value in flat.items()}


def read_rows(path: Path, key: tuple[str, ...], notes: list[str]) -> pa.Table:
    """A JSONL file as a table, a row a line.

    path: a missing file is an empty table. key: columns that number the rows; of two with one key the later counts.
    notes: gets a sentence for everything that could not be used; a line cut off by a crash ends the file.
    Returns float64 columns; `split` is text, other text is left out.
    """
    try:
        text = limits.read_bytes(path, limits.LARGEST_ROWS)
    except FileNotFoundError:
        return pa.table({"update": pa.array([], pa.float64())})
    text, cut = _whole_lines(text)
    if cut:
        notes.append(f"{path.name}: last line is truncated; used up to there")
    if not text.strip():
        return pa.table({"update": pa.array([], pa.float64())})
    try:
        table = _read_at_once(text)
    except (pa.ArrowException, UnicodeDecodeError):  # a bare NaN or Infinity, or a damaged line: the slow, exact way
        table = _read_line_by_line(text, path.name, notes)
    return _last_of_each(_numbers(table), key, path.name, notes)


def _read_at_once(text: bytes) -> pa.Table:
    """Raises ArrowException or UnicodeDecodeError for text that arrow cannot read, or must not."""
    text.decode()  # arrow takes any bytes for text
    if limits.too_deep(text):
        raise pa.ArrowInvalid("nested too deep")  # deeper still, its parser ends the process
    options = pj.ReadOptions(use_threads=False, block_size=len(text) + 1)
    return pj.read_json(pa.BufferReader(text), read_options=options)


def _whole_lines(text: bytes) -> tuple[bytes, bool]:
    """The text up to its last complete line, and whether something was cut off."""
    if not text or text.endswith(b"\n"):
        return text, False
    end = text.rfind(b"\n") + 1
    try:
        json.loads(text[end:])
    except ValueError:
        return text[:end], True
    return text, False  # complete, only the newline is missing


def _read_line_by_line(text: bytes, name: str, notes: list[str]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = None if limits.too_deep(line) else json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            notes.append(f"{name}: line {number} is not a JSON object; used up to there")
            break
        rows.append({k: v for k, v in flatten(row).items() if _is_cell(k, v)})
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _is_cell(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return _holds_counts(name) and all(type(count) is int for count in value)
    return isinstance(value, int | float | str) or value is None


def _holds_counts(name: str) -> bool:
    return name in ("right", "greedy_right") or name.startswith("right_top_p_")


def _column(values: list[Any]) -> pa.Array:
    if any(isinstance(value, list) for value in values):
        return pa.array([value if isinstance(value, list) else None for value in values], _COUNTS)
    if any(isinstance(value, str) for value in values):
        return pa.array([value if isinstance(value, str) else None for value in values], pa.string())
    return pa.array([None if value is None else _float(value) for value in values], pa.float64())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _numbers(table: pa.Table) -> pa.Table:
    """Number columns as float64, `split` as text, {"pass_at_k": {"4": …}} as pass_at_k.4; counts of
    problems as lists; no other lists, no other text."""
    columns = {}
    while any(pa.types.is_struct(column.type) for column in table.schema):
        table = table.flatten()
    for name in table.column_names:
        kind = table.schema.field(name).type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            column = table[name].cast(pa.int8()) if pa.types.is_boolean(kind) else table[name]
            columns[name] = column.cast(pa.float64())
        elif pa.types.is_null(kind):  # never defined in this run, perhaps in another
            columns[name] = pa.nulls(len(table), pa.float64())
        elif kind == (_COUNTS if _holds_counts(name) else pa.string() if name == "split" else None):
            columns[name] = table[name]
    return pa.table(columns)


def _last_of_each(table: pa.Table, key: tuple[str, ...], name: str, notes: list[str]) -> pa.Table:
    if not set(key) <= set(table.column_names):
        notes.append(f"{name}: rows carry no {' and '.join(key)}; not used")
        return pa.table({"update": pa.array([], pa.float64())})
    rows = list(zip(*(table[part].to_pylist() for part in key), strict=True))
    last = {row: index for index, row in enumerate(rows) if all(map(_is_key, row))}
    keep = sorted(last.values())
    if len(keep) == len(rows):
        return table
    notes.append(f"{name}: {len(rows) - len(keep)} repeated or unnumbered rows; the last of each counts")
    return table.take(pa.array(keep, pa.int64()))  # of none, too


def _is_key(part: Any) -> bool:
    """Whether something can number a row: an update, or the name of a split."""
    if isinstance(part, str):
        return part == printable(part)
    return part is not None and math.isfinite(part) and part == int(part) and 0 <= part < 2**53


def _signature(folder: Path) -> str:
    parts = [f"layout {_LAYOUT}"]
    for name in _FILES:
        try:
            stat = (folder / name).stat()
        except OSError:
            parts.append(f"{name} -")
        else:
            parts.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
    return "\n".join(parts)


def _from_cache(entry: Path, folder: Path, signature: str) -> Record | None:
    try:
        # a third of the time of pq.read_table, which looks at every file as a dataset
        updates = pq.ParquetFile(entry, memory_map=True).read(use_threads=False)
        held = json.loads((updates.schema.metadata or {})[b"lagrange"])
    except (OSError, KeyError, ValueError):  # ArrowInvalid is a ValueError
        return None
    if held["signature"] != signature:
        return None
    evaluations = pa.table(
        {
            name: pa.array(values, pa.string() if name == "split" else _COUNTS if _holds_counts(name) else pa.float64())
            for name, values in held["evaluations"].items()
        }
    )
    updates = updates.replace_schema_metadata(None)
    return Record(folder, held["manifest"], held["config"], updates, evaluations, held["notes"])


def _to_cache(entry: Path, record: Record, signature: str) -> None:
    held = {
        "signature": signature,
        "manifest": record.manifest,
        "config": record.config,
        "evaluations": record.evaluations.to_pydict(),
        "notes": record.notes,
    }
    table = record.updates.replace_schema_metadata({b"lagrange": json.dumps(held, default=str).encode()})
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=entry.parent, suffix=".tmp")
        os.close(handle)
        # float columns hardly repeat: without a dictionary reading is about twice as fast
        pq.write_table(table, scratch, compression="lz4", use_dictionary=False, write_statistics=False)
        os.replace(scratch, entry)
    except OSError:
        return  # a cache is a convenience
