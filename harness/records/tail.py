"""Reads a JSONL stream that somebody may still be writing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.records.layout import EVAL, METRICS
from harness.records.limits import LARGEST_TEXT

TAIL_BYTES = 16384  # more than two rows of metrics.jsonl


def rows(path: Path, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole rows of a stream from a byte on, each with the offset of the byte after it.

    path: the JSONL file; one that does not exist has no rows.
    start: offset in bytes, 0 or one that this function returned.
    Returns (row, end) in the order of the file; lines that are no row (no JSON object, or no count for an update) are
    left out, and a half-written last line is left for later.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for line in iter(lambda: file.readline(LARGEST_TEXT), b""):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            row = _parsed(line)
            if row is not None:
                yield row, end


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a stream.

    path: the JSONL file.
    Returns the row; None where there is no file or no whole row within the last TAIL_BYTES.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    return next((row for row in map(_parsed, reversed(lines)) if row is not None), None)


def last_update(folder: Path) -> int:
    """The update of the last whole row of a run folder's metrics.jsonl; 0 where there is none."""
    return (last_row(folder / METRICS) or {}).get("update", 0)


def validation_scores(folder: Path) -> dict[int, float]:
    """Accuracy on validation by update, of a run folder's eval.jsonl; rows without both are left out."""
    found = (row for row, _ in rows(folder / EVAL) if row.get("split") == "validation" and "update" in row)
    pairs: Iterator[tuple[int, Any]] = ((row["update"], row.get("sampled_accuracy")) for row in found)
    return {update: float(score) for update, score in pairs if type(score) in (int, float) and 0 <= score <= 1}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and _is_count(row.get("update", 0)) else None


def _is_count(update: object) -> bool:
    return type(update) is int and 0 <= update < 2**53
