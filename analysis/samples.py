"""The model answers that a report shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.study import Study
from harness.records import layout
from harness.records.limits import LARGEST_SAMPLES, plain_size, too_deep

MOST = 12  # answers shown


def of_study(study: Study) -> list[dict[str, Any]]:
    """Model answers at the end of the first reference runs, where the run folders hold them."""
    result: list[dict[str, Any]] = []
    firsts = study.used[study.used["reference"]].drop_duplicates(["algorithm", "staleness"])
    for row in firsts.itertuples():
        path = Path(str(row.folder)) / layout.SAMPLES
        if not row.folder or len(result) >= MOST:
            continue
        result += [{"run": row.run, **sample} for sample in _last(path)[: max(1, MOST // len(firsts))]]
    return result[:MOST]


def _last(path: Path) -> list[dict[str, Any]]:
    try:
        plain_size(path)
        lines = _end(path, LARGEST_SAMPLES)
    except (OSError, ValueError):  # none there, or no right to read them: the report is about numbers
        return []
    rows = []
    for line in lines:
        try:
            row = None if too_deep(line) else json.loads(line)
        except ValueError:
            break  # cut off by a crash
        if isinstance(row, dict) and type(row.get("update")) is int:
            rows.append({key: row.get(key, "") for key in ("update", "split", "prompt", "response", "reward")})
    if not rows:
        return []
    last = max(row["update"] for row in rows)
    return [row for row in rows if row["update"] == last]


def _end(path: Path, most: int) -> list[bytes]:
    """The last whole lines of a file, of at most so many bytes."""
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - most)
        file.seek(start)
        return file.read().split(b"\n")[1 if start else 0 : -1]
