"""What a run folder holds, in MLflow's terms: rows become metrics, the configuration becomes params."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST_PARAM = 6000
NOT_PARAMS = ("runs_dir", "tracking", "dry_run", "retry_failed")


def rows(path: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole rows from byte `start` on, each with the byte after it; a half-written last line is left for later."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row, end


def update_metrics(row: dict[str, Any]) -> dict[str, float]:
    """A row of metrics.jsonl."""
    return _finite({name: value for name, value in row.items() if name != "update"})


def evaluation_metrics(row: dict[str, Any]) -> dict[str, float]:
    """A row of eval.jsonl, under the name of its split."""
    passed = row.get("pass_at_k") if isinstance(row.get("pass_at_k"), dict) else {}
    flat = {name: value for name, value in row.items() if name not in ("update", "split")}
    flat |= {f"pass_at_{k}": value for k, value in (passed or {}).items()}
    return _finite({f"{row.get('split')}/{name}": value for name, value in flat.items()})


def params(config: dict[str, Any]) -> dict[str, str]:
    """The configuration, flat ("learner.lr")."""
    flat = _flat({key: value for key, value in config.items() if key not in NOT_PARAMS})
    return {k: v if len(v) <= LONGEST_PARAM else "long: see config.yaml" for k, v in flat.items()}


def _finite(values: dict[str, Any]) -> dict[str, float]:
    """MLflow stores an infinite number as a huge one and refuses most punctuation in names."""
    metrics = {}
    for name, value in values.items():
        plain = _plain(name)
        sane = posixpath.normpath(plain) == plain and not plain.startswith((".", "/"))
        if sane and isinstance(value, int | float) and math.isfinite(value):
            metrics[plain] = float(value)
    return metrics


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[_plain(f"{prefix}{key}")] = str(value)
    return flat


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:250]
