"""What tuning chose, its price, the best so far against the budget, and the sweep that runs the choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis import scores, statistics, style, tabular, tuning
from analysis.errors import AnalysisError
from analysis.figures import common
from analysis.figures.common import Drawing
from analysis.tabular import Table
from analysis.tuning import GROUP, Tuning

FINAL_SEEDS = 12
_ONLY_TUNING = (
    "eval.validation_only",
    "stop_at",
    "dry_run",
    "retry_failed",
    "runs_dir",
    "hydra.searchpath",
)  # settings that the final runs do not take over


@dataclass(frozen=True)
class Choice:
    """What tuning chose for one method and staleness.

    values: key → value of every key that the method's points vary. scores: [seeds], outcome on validation.
    published: mean outcome of the published point if it ran to the end, else NaN. runs, updates: spent on the method.
    needed: updates of the runs it needs, counted in its budget. edge: keys with the smallest or largest value tried.
    """

    method: str
    staleness: int | str
    values: dict[str, Any]
    scores: np.ndarray
    published: float
    runs: int
    updates: int
    needed: int
    edge: list[str]


def choices(sweep: Tuning) -> list[Choice]:
    """One choice a method and staleness: the best point of those that ran to the end.

    Raises AnalysisError while a run that should have ended has not.
    """
    cells = sweep.scores(sweep.length)
    if sweep.points["rungs"]:
        cells = cells.loc[tuning.kept(sweep, sweep.points["rungs"][-1])]
    behind = int(cells["score"].isna().sum())
    if behind:
        raise AnalysisError(f"{behind} runs have not ended; the same command of run.py carries on")
    return [_choice(sweep, ended) for _, ended in cells.groupby(GROUP, sort=False)]


def _choice(sweep: Tuning, ended: pd.DataFrame) -> Choice:
    method, lag = str(ended["method"].iloc[0]), ended["staleness"].iloc[0]
    staleness = lag if isinstance(lag, str) else int(lag)
    means = ended.groupby("point")["score"].mean()
    best = ended[ended["point"] == means.idxmax()]
    spent = _begun(sweep, method, staleness)
    values = _values(sweep, method, best.index[0])
    tried = [_values(sweep, method, cell) for cell in spent.index]
    return Choice(
        method,
        staleness,
        values,
        best["score"].to_numpy(),
        float(means.get(_published(sweep, method), math.nan)),
        len(spent),
        int(spent["updates"].sum()),
        _needed(sweep, method, staleness),
        [key for key, value in values.items() if _is_extreme(value, [other[key] for other in tried])],
    )


def _needed(sweep: Tuning, method: str, staleness: int | str) -> int:
    """Updates of other methods' published runs that a method's points were made from."""
    needs = sweep.points["needs"].get(method, [])
    return sum(int(_begun(sweep, other, staleness, published=True)["updates"].sum()) for other in needs)


def _begun(sweep: Tuning, method: str, staleness: int | str, published: bool = False) -> pd.DataFrame:
    """The cells of a method and staleness that have begun; of its published point alone if `published`."""
    cells = sweep.cells
    cells = cells[(cells["method"] == method) & (cells["staleness"] == staleness) & (cells["status"] != "waiting")]
    return cells[cells["point"] == _published(sweep, method)] if published else cells


def _published(sweep: Tuning, method: str) -> int:
    """The number of the published point, −1 where none is listed."""
    points = sweep.points["methods"].get(method, [])
    return points.index({}) if {} in points else -1


def _values(sweep: Tuning, method: str, cell: int) -> dict[str, Any]:
    """What a cell has under every key that its method's points vary."""
    keys = dict.fromkeys(key for point in sweep.points["methods"][method] for key in point)
    return {key: sweep.configs[cell].get(key) for key in keys}


def _is_extreme(value: Any, tried: Sequence[Any]) -> bool:
    """Whether a number is the smallest or largest of several tried."""
    numbers = {v for v in tried if isinstance(v, int | float)}
    return len(numbers) > 1 and value in (min(numbers), max(numbers))


def table(sweep: Tuning) -> Table:
    """A row a method and staleness: the choice, its score on validation, and the price of finding it."""
    points = sweep.points
    made = choices(sweep)
    lines: list[list[object]] = [
        [
            style.look(c.method).label,
            c.staleness,
            words(c.values),
            statistics.estimate(c.scores),
            c.published,
            len(points["methods"][c.method]),
            c.runs,
            c.updates,
            c.needed or "–",
            ", ".join(c.edge) or "–",
        ]
        for c in made
    ]
    columns = ["method", "s", "choice", "validation", "as published", "points", "runs", "updates", "of runs needed"]
    caption = (
        f"Chosen by {scores.OUTCOMES[points['outcome']]} of {points['metric']} on validation, mean over seeds "
        f"{', '.join(map(str, points['seeds']))}; rungs at {', '.join(map(str, points['rungs'])) or 'no'} updates, of "
        f"which the best {points['keep']:.0%} of the points go on, and {sweep.length}. as published: the same outcome "
        "of the published point, – where it was dropped at a rung. updates: all that were spent on the method; of runs "
        "needed: of other methods' runs that its points were made from, part of its budget. at the edge: the choice is "
        "the smallest or largest value tried: a wider range may hold a better one."
    )
    return Table([*columns, "at the edge"], lines, caption)


def words(values: dict[str, Any]) -> str:
    """Values as one types them."""
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    )


def spending(sweep: Tuning) -> pd.DataFrame:
    """The best so far against the budget, point by point in the order of the list, rung by rung.

    Runs of another rung have another length, and their outcomes are others: a curve begins anew at each rung.
    Returns a row a point and rung: method, staleness, rung, point, spent (updates of all runs so far, those it needs
    first), score (mean over seeds), best (so far at this rung).
    """
    rows = []
    for (method, staleness), group in sweep.cells.groupby(GROUP, sort=False):
        spent, before = _needed(sweep, str(method), group["staleness"].iloc[0]), 0
        for rung in [*sweep.points["rungs"], sweep.length]:
            best = -math.inf
            for point, own in sweep.scores(rung).loc[group.index].dropna(subset="score").groupby("point"):
                spent += int((own["updates"].clip(upper=rung) - before).clip(lower=0).sum())
                score = float(own["score"].mean())
                best = max(best, score)
                rows.append([method, staleness, rung, point, spent, score, best])
            before = rung
    return pd.DataFrame(rows, columns=[*GROUP, "rung", "point", "spent", "score", "best"])


def draw(sweep: Tuning) -> Drawing:
    """The best so far against the updates spent, a panel a staleness, a line a method and rung."""
    rows = spending(sweep)
    shown = rows[np.isfinite(rows["best"])]
    lags = sorted(shown["staleness"].unique(), key=lambda lag: (isinstance(lag, str), lag))
    figure, axes = common.canvas(2, 3.2, len(lags), sharey=True)
    handles: dict[str, Any] = {}
    for ax, staleness in zip(axes, lags, strict=True):
        for (method, _), part in shown[shown["staleness"] == staleness].groupby(["method", "rung"], sort=False):
            look = style.look(str(method))
            (handles[look.label],) = ax.step(part["spent"], part["best"], where="post", color=look.colour,
                                             marker=look.marker, markersize=3.5, label=look.label)  # fmt: skip
        ax.set_xlabel("updates spent on the method")
        ax.set_title(f"s = {staleness}")
    axes[0].set_ylabel("best on validation so far")
    rungs = ", ".join(map(str, [*sweep.points["rungs"], sweep.length]))
    caption = (
        f"Best {scores.OUTCOMES[sweep.points['outcome']]} of {sweep.points['metric']} on validation (mean over seeds), "
        f"against the updates spent, a mark a point in the order of the list. A line for each rung ({rungs} updates)."
    )
    return common.finish(figure, rows, caption, [], list(handles.values()))


def curves(sweep: Tuning) -> list[str]:
    """The best so far in text, a line a method, staleness and rung: "GRPO s = 64 to 200: .31 at 600, .35 at 1,800"."""
    lines = []
    for (method, staleness, rung), part in spending(sweep).groupby([*GROUP, "rung"], sort=False):
        rises = part[part["best"].diff().fillna(1) > 0]
        steps = ", ".join(f"{row.best:.3f} at {row.spent:,}" for row in rises.itertuples())
        lines.append(f"{style.look(str(method)).label} s = {staleness}, runs of {rung}: best {steps} updates spent")
    return lines


def write(sweep: Tuning, out: Path) -> list[Path]:
    """Writes table and figure of a tuning sweep.

    out: folder that exists; tuning.md, .tex, .csv and tuning_curve.png, .pdf, .csv go there. Returns the paths.
    """
    with common.options():
        return [*tabular.write(table(sweep), out, "tuning"), *common.save(draw(sweep), out, "tuning_curve")]


def final_sweep(sweep: Tuning, seeds: Sequence[int] = ()) -> str:
    """The file of the final sweep: every choice on seeds that tuning has not seen.

    seeds: default: the first 12 that tuning did not use. Raises AnalysisError for a seed that it did.
    """
    used = set(sweep.points["seeds"])
    seeds = list(seeds) or [seed for seed in range(1, FINAL_SEEDS + len(used) + 1) if seed not in used][:FINAL_SEEDS]
    if used & set(seeds):
        raise AnalysisError(f"seed {min(used & set(seeds))}: tuning has used it; expected other seeds")
    settings = {key: value for key, value in sweep.points["settings"].items() if key not in _ONLY_TUNING}
    methods: dict[str, list[dict[str, Any]]] = {}
    lines = []
    for c in choices(sweep):
        methods.setdefault(c.method, []).append({"staleness": c.staleness, **c.values})
        lines.append(
            f"#   {c.method} s={c.staleness}: {c.runs} runs, {c.updates + c.needed} updates, {words(c.values)}"
        )
    head = [
        "# Written by python -m analysis tune: what was chosen on validation, on other seeds. What tuning cost:",
        *lines,
    ]
    held = {"settings": settings, "seeds": seeds, "methods": methods}
    return "\n".join(head) + "\n" + yaml.safe_dump(held, sort_keys=False, default_flow_style=None, width=118)
