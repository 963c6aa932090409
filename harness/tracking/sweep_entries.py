"""What a sweep's folder holds, in MLflow's terms: parameters, metrics over its cells, and its description."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.config import role_of
from harness.records import tail
from harness.records.files import read_json
from harness.records.layout import CONFIG, EVAL, MANIFEST
from harness.records.limits import read_yaml
from harness.records.state import status_of
from harness.tracking import entries

LONGEST_TAG = 5000
REPORT = "report/index.html"
TABLE = "tables/summary.md"
NO_PARAM = ("sweep", "experiment")  # what they stand for is given too
STARTS = ("| ", "|-", "[Report](")  # how a description begins that was written here


def swept_params(cells: list[dict[str, Any]]) -> dict[str, str]:
    """The params that differ between the cells of a sweep, with their values: {"staleness": "0, 64"}."""
    return {name: ", ".join(values) for name, values in _values(cells).items() if len(values) > 1}


def sweep_params(folder: Path, cells: list[dict[str, Any]]) -> dict[str, str]:
    """What was chosen for a sweep: the values of each key that was given, and what all its cells share.

    folder: of the sweep. cells: as in sweep.json. What the cells share is known once all of them have begun.
    """
    given = {name: ", ".join(values) for name, values in _values(cells).items()}
    folders = [(folder / cell["folder"]).resolve() for cell in cells]
    if not all((each / CONFIG).is_file() for each in folders):
        return given
    params = [_params(each).items() for each in folders]
    shared = dict(set(params[0]).intersection(*params[1:]))
    whole = {name: value for name, value in (shared | given).items() if len(value) <= entries.LONGEST_PARAM}
    return dict(sorted(whole.items()))


def sweep_metrics(folder: Path, cells: list[dict[str, Any]]) -> dict[str, float]:
    """How many cells there are and stand where, and the last evaluations of the finished: mean, lowest and highest."""
    folders = [(folder / cell["folder"]).resolve() for cell in cells]
    states = [status_of(each) for each in folders]
    metrics = {"cells": float(len(cells))}
    metrics |= {f"cells_{state}": float(states.count(state)) for state in ("finished", "failed")}
    ended = [_accuracies(each) for each, state in zip(folders, states, strict=True) if state == "finished"]
    for name in dict.fromkeys(name for each in ended for name in each):
        values = [each[name] for each in ended if name in each]
        metrics |= {f"mean/{name}": statistics.fmean(values), f"lowest/{name}": min(values)}
        metrics[f"highest/{name}"] = max(values)
    return metrics


def description(folder: Path, experiment: str, run_id: str) -> str:
    """A link to the sweep's report and its summary table, in Markdown; "" where there is neither.

    folder: of the sweep. experiment, run_id: of the sweep in MLflow.
    """
    parts = []
    if (folder / REPORT).is_file():
        address = f"#/experiments/{experiment}/runs/{run_id}/artifacts/{REPORT}"
        parts.append(f"[Report]({address}): every figure, with what it shows.\n\n")
    if (folder / TABLE).is_file():
        parts.append((folder / TABLE).read_text(encoding="utf-8"))
    whole = "".join(parts)
    return whole if len(whole) <= LONGEST_TAG else whole[:LONGEST_TAG].rpartition("\n")[0]


def accuracy_of(metrics: dict[str, float]) -> str:
    """The metric that sorts a sweep's cells: on test, or on validation where nothing else was evaluated."""
    only_validation = any("validation/" in name for name in metrics) and not any("test/" in name for name in metrics)
    return "validation/sampled_accuracy" if only_validation else "test/sampled_accuracy"


def _values(cells: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Values of each given science or driver key in the order of the cells."""
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        for name, value in _given(cell):
            values.setdefault(name, {})[value] = None
    return {name: list(each) for name, each in values.items()}


def _given(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for override in cell["overrides"]:
        key, _, value = override.lstrip("+").partition("=")
        if value and key not in NO_PARAM and "/" not in key and role_of(key) in entries.PARAM_ROLES:
            yield entries.NAMES.get(key, key), value


def _params(folder: Path) -> dict[str, str]:
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    return entries.params(read_yaml(folder / CONFIG), manifest.get("roles") or {})


def _accuracies(folder: Path) -> dict[str, float]:
    last = {row["split"]: row for row, _ in tail.rows(folder / EVAL) if "split" in row}
    metrics = {name: value for row in last.values() for name, value in entries.evaluation_metrics(row).items()}
    return {name: value for name, value in metrics.items() if name.endswith("_accuracy")}
