"""Tuning by rungs, read off the run folders: which points go on, what was chosen, and what it cost.

A point is one setting of a method. Within a method and staleness all points run to the first rung; there the best of
them by validation go on, until the last have run to the end. docs/tuning.md has the rule.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import outcomes
from analysis.errors import AnalysisError, reason
from analysis.records import ForeignFolder, Record, read_record
from harness.records.layout import MANIFEST, SWEEP
from harness.records.limits import read_json

OUTCOMES = {"area": outcomes.area, "final": lambda updates, accuracy: float(accuracy[-1])}
GROUP = ["method", "staleness"]
STALENESS = re.compile(r"\d+|[a-z_]+:[\w.:-]+")  # updates, or a distribution of ages
# What `run.py` writes of a list of points, and Python's type of it.
SHAPE: dict[str, Any] = {
    **dict.fromkeys(("methods", "needs", "settings"), dict),
    **dict.fromkeys(("rungs", "seeds"), list),
    **dict.fromkeys(("metric", "outcome"), str),
    "keep": (int, float),
}


@dataclass(frozen=True)
class Tuning:
    """A tuning sweep as its folder has it.

    points: what sweep.json says of it (methods, rungs, keep, metric, outcome, needs, settings, seeds).
    cells: a row a cell, in the order of the sweep: method, point (its number), staleness (int, or text where it is a
        distribution), seed, status, updates (done).
    curves: of each cell, its evaluations on validation: updates and accuracy, [n] each.
    configs: of each cell, its flat configuration, empty before it has begun.
    """

    points: dict[str, Any]
    cells: pd.DataFrame
    curves: list[tuple[np.ndarray, np.ndarray]]
    configs: list[dict[str, Any]]

    @property
    def length(self) -> int:
        """Updates of a whole run. Raises AnalysisError where none has begun."""
        lengths = [config["updates"] for config in self.configs if type(config.get("updates")) is int]
        if not lengths:
            raise AnalysisError("no run of this sweep has begun; the same command of run.py begins them")
        return max(lengths)

    def scores(self, update: int) -> pd.DataFrame:
        """The cells with their `score`, the outcome up to an update: −inf where the run failed before it.

        NaN where a run is not there yet, or was never meant to get there.
        """
        outcome = OUTCOMES[self.points["outcome"]]
        values = []
        for status, (updates, accuracy) in zip(self.cells["status"], self.curves, strict=True):
            held = updates <= update
            there = held.any() and updates[held][-1] == update
            failed = -math.inf if status == "failed" else math.nan
            values.append(outcome(updates[held], accuracy[held]) if there else failed)
        return self.cells.assign(score=values)


def read(sweep: Path) -> Tuning:
    """A tuning sweep from its folder, the one that holds sweep.json.

    Raises AnalysisError if it holds no tuning sweep.
    """
    try:
        points, cells = _checked(read_json(sweep / SWEEP))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(
            f"{sweep}: no tuning sweep ({reason(error)}); expected the folder of a run.py sweep=tune/NAME"
        ) from error
    rows, curves, configs = [], [], []
    for cell in cells:
        record = record_of((sweep / cell["folder"]).resolve())
        typed = _typed(cell)
        rows.append(
            {
                "method": cell["method"],
                "point": cell["point"],
                "staleness": int(lag) if (lag := typed["staleness"]).isdigit() else lag,
                "seed": int(typed["seed"]),
                "status": str(record.manifest["status"]) if record else "waiting",
                "updates": _done(record),
            }
        )
        curves.append(validation(record, points["metric"]))
        configs.append(record.config if record else {})
    return Tuning(points, pd.DataFrame(rows), curves, configs)


def going_on(sweep: Path, update: int) -> list[int]:
    """The cells that run on past a rung: those of the best points of every method and staleness, by validation.

    sweep: folder of sweep.json. update: of the rung. Returns the numbers of the cells in the sweep.
    Raises AnalysisError where a run that should be at the rung is not, and did not fail.
    """
    return kept(read(sweep), update).tolist()


def kept(tuning: Tuning, update: int) -> pd.Index:
    """The numbers of the cells whose points go on past a rung; those dropped at an earlier one do not count.

    update: of the rung. Raises AnalysisError where a run that should be at the rung is not, and did not fail.
    """
    cells = tuning.scores(update)
    for earlier in tuning.points["rungs"]:
        if earlier < update:
            cells = cells.loc[kept(tuning, earlier)]
    behind = cells["score"].isna()
    if behind.any():
        raise AnalysisError(
            f"{behind.sum()} of {len(cells)} runs are not at update {update} ({_counted(cells['status'][behind])}); "
            "the same command carries on"
        )
    return cells.index[_ranks(cells, tuning) <= _places(cells, tuning)]


def _ranks(cells: pd.DataFrame, tuning: Tuning) -> pd.Series:
    """Of every cell, the rank of its point: by the mean over seeds, the one listed first before its equals."""
    means = cells.groupby([*GROUP, "point"])["score"].mean().sort_index()
    ranks = means.groupby(level=GROUP).rank(ascending=False, method="first")
    return ranks.loc[pd.MultiIndex.from_frame(cells[[*GROUP, "point"]])].set_axis(cells.index)


def _places(cells: pd.DataFrame, tuning: Tuning) -> pd.Series:
    """Of every cell, how many points of its method and staleness go on: the share `keep`, at least one."""
    points = cells.groupby(GROUP)["point"].transform("nunique")
    return (points * tuning.points["keep"]).round().clip(lower=1)


# ------------------------------------------------------------------------------------------------ reading


def _checked(held: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The points and cells of a sweep.json, if they are a tuning sweep's. Raises ValueError, KeyError or TypeError."""
    points, cells = held["points"], held["cells"]
    for name, kind in SHAPE.items():
        if not isinstance(points[name], kind):
            raise TypeError(f"its {name} are of another kind")
    if points["outcome"] not in OUTCOMES:
        raise ValueError(f"outcome: {points['outcome']}: expected one of {', '.join(OUTCOMES)}")
    whole = {"rungs": points["rungs"], "seeds": points["seeds"], "points": [cell["point"] for cell in cells]}
    for name, values in whole.items():
        if not all(type(value) is int for value in values):
            raise TypeError(f"its {name} are no whole numbers")
    for method, own in points["methods"].items():
        if not isinstance(own, list) or not all(isinstance(point, dict) for point in own):
            raise TypeError(f"{method}: no list of points")
    for cell in cells:
        if cell["method"] not in points["methods"] or not isinstance(cell["folder"], str):
            raise ValueError("a cell has no method of its own, or no folder")
        typed = _typed(cell)
        if not typed["seed"].isdigit() or not STALENESS.fullmatch(typed["staleness"]):
            raise ValueError("a cell has no staleness or no seed")
    return points, cells


def _typed(cell: dict[str, Any]) -> dict[str, str]:
    """Key → value of a cell's overrides."""
    return dict(str(word).split("=", 1) for word in cell["overrides"])


def record_of(folder: Path) -> Record | None:
    """The record of a run folder, None where nothing has begun. Raises AnalysisError for a damaged one."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return read_record(folder)
    except ForeignFolder as error:
        raise AnalysisError(f"{folder}: {error}") from error


def _done(record: Record | None) -> int:
    return int(max(record.updates["update"].to_pylist(), default=0)) if record else 0


def validation(record: Record | None, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Updates and accuracy, [n] each, of the evaluations on validation; on the only split where none is called so."""
    if record is None or not len(record.evaluations):
        return np.array([]), np.array([])
    if metric not in record.evaluations.column_names:
        raise AnalysisError(f"{record.folder}: its evaluations have no {metric}")
    rows = record.evaluations.select(["update", "split", metric]).to_pandas()
    if "validation" in set(rows["split"]):
        rows = rows[rows["split"] == "validation"]
    rows = rows.dropna().sort_values("update")
    return rows["update"].to_numpy(), rows[metric].to_numpy()


def _counted(statuses: pd.Series) -> str:
    return ", ".join(f"{n} {status}" for status, n in statuses.value_counts().items())
