"""The tables of a study: a table keeps its numbers, only the writers of analysis.tabular make text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis import axes, outcomes, rows, scores, statistics, style
from analysis.errors import MissingData
from analysis.statistics import Estimate
from analysis.study import Study
from analysis.tabular import Table, made

SEEDS = "Mean over seeds and 95 % t interval, none where n < 3 (docs/analysis.md)."
UNTUNED = "Each method stands at the setting it was run with: a table of untuned methods does not rank them."


def summary(study: Study, metric: str = "sampled_accuracy", last: int = scores.LAST) -> Table:
    """The sweep's own table: a row an algorithm × staleness × setting.

    metric: the accuracy, a name in eval.jsonl. last: evaluations in the last-k mean.
    """
    runs = scores.per_run(study, metric, last)
    found = rows.series(study, runs)
    unused = study.unused.groupby(["algorithm", "staleness"]).size().to_dict() if len(study.unused) else {}
    lines = []
    for names, group in found.rows:
        values = [statistics.estimate(group[value].to_numpy()) for value in ("area", "best", "final", "last_k")]
        key = (group["algorithm"].iloc[0], group["staleness"].iloc[0])
        lines.append([*names, len(group), *values, collapsed(group), int(unused.get(key, 0))])
    columns = [*found.columns, "n", "area", "best", "final", f"mean of last {last}", "collapsed", "unused runs"]
    caption = (
        f"{metric} on {scores.reported_split(study)}. area: under the curve, over its length. best: at the update that "
        f"is best on validation. final: the last evaluation. {SEEDS} collapsed: runs, and the update of onset. "
        f"{found.words}"
    )
    return Table(columns, lines, caption.strip())


def decodings(study: Study, outcome: str = scores.RANKED_BY) -> Table:
    """One outcome under every decoding that was recorded, side by side: they need not rank alike.

    outcome: a column of `scores.per_run`.
    """
    metrics = scores.decodings(study)
    runs = scores.per_run(study, metrics[0])
    values = {name: scores.per_run(study, name).set_index("run")[outcome] for name in scores.recorded(study, metrics)}
    found = rows.series(study, runs)
    lines = [
        [
            *names,
            len(group),
            *(statistics.estimate(group["run"].map(values.get(name, {})).to_numpy()) for name in metrics),
        ]
        for names, group in found.rows
    ]
    caption = (
        f"{scores.OUTCOMES[outcome]} on {scores.reported_split(study)}, by how answers were decoded; –: not recorded "
        f"(eval.greedy, eval.top_p). {SEEDS} {found.words}"
    )
    return Table([*found.columns, "n", *metrics], lines, caption.strip())


def stability(study: Study, metric: str = "sampled_accuracy") -> Table:
    """How far and how long accuracy fell, whatever the update at which the runs were stopped.

    metric: the accuracy, a name in eval.jsonl.
    """
    runs = scores.per_run(study, metric)
    drift = scores.drift(study)
    found = rows.series(study, runs)
    horizon = float(runs["observed"].min())
    lines = []
    for names, group in found.rows:
        falls = group["first_fall"].to_numpy()
        shown = {"drawdown": 3, "drawdown_updates": 0, "share_fallen": 3}
        values = [statistics.estimate(group[name].to_numpy(), decimals) for name, decimals in shown.items()]
        lines.append([
            *names, len(group), *values, f"{np.isfinite(falls).sum()}/{len(group)}",
            _restricted(falls, horizon), _turnovers(group),
            statistics.estimate(group["run"].map(drift).to_numpy()),
        ])  # fmt: skip
    columns = [
        *found.columns,
        "n",
        "largest drawdown",
        "its updates",
        "share fallen",
        "runs fallen",
        "updates to the fall",
    ]
    caption = (
        f"{metric} on {scores.reported_split(study)}. Fallen: below half of the best so far, at least .05 below it. "
        f"updates to the fall: restricted mean, a run without one counts as {horizon:.0f}, which every run reached; no "
        f"interval where none fell. turnovers: updates / s. KL: mean k1 of an update, nats. {SEEDS} {found.words}"
    )
    return Table([*columns, "turnovers", "KL"], lines, caption.strip())


def _restricted(times: np.ndarray, horizon: float) -> Estimate:
    """The restricted mean, without an interval where nothing happened: one of no width would claim certainty."""
    found = statistics.estimate(outcomes.restricted(times, horizon), decimals=0)
    return found if np.isfinite(times).any() else replace(found, low=math.nan, high=math.nan)


def _turnovers(group: pd.DataFrame) -> object:
    staleness = float(group["staleness"].iloc[0])
    return float(group["updates_done"].mean()) / staleness if staleness else "–"


def to_target(study: Study, metric: str = "sampled_accuracy") -> Table:
    """Updates until an accuracy is reached, as restricted means: no censored seed is left out.

    metric: the accuracy, a name in eval.jsonl.
    Raises MissingData without on-policy runs that gained accuracy: they set the target.
    """
    one = study.keep(study.runs[study.runs["reference"] & study.runs["used"]])
    target = scores.default_target(one, metric=metric)
    if target is None:
        raise MissingData("needs runs at staleness 0 that gained accuracy")
    cost = scores.cost_of_staleness(one, target, metric)
    added = ["run", "reached", "updates_to_target", "ratio"]
    found = rows.series(one, one.used.merge(cost[added], on="run"))
    lines = [
        [*names, len(group), f"{int(group['reached'].sum())}/{len(group)}",
         statistics.estimate(group["updates_to_target"].to_numpy(float), decimals=0),
         statistics.estimate(group["ratio"].to_numpy(float))]
        for names, group in found.rows
    ]  # fmt: skip
    caption = (
        f"Updates until {metric} is {target.accuracy:.3f} ({target.words}). Restricted mean: a run that never gets "
        f"there counts as {cost['horizon'].iloc[0]:.0f}, the last update that every run was evaluated at. over "
        f"on-policy: the ratio to {target.baseline[0]} at s = 0 of the same seed. {SEEDS} {found.words}"
    )
    return Table([*found.columns, "n", "reached", "updates to target", "over on-policy"], lines, caption.strip())


def table1(study: Study, metric: str = "sampled_accuracy") -> Table:
    """The shape of the M2PO paper's Table 1: a column a benchmark and their average, a row a method and staleness.

    Each run is read at the update that is best on its validation split, never on the benchmarks themselves.

    metric: the accuracy, a name in eval.jsonl.
    """
    runs = scores.per_run(study, metric)
    chosen = runs[["run", "best_update"]].rename(columns={"best_update": "update"})
    evaluations = study.evaluations.astype({"run": str}).merge(chosen, on=["run", "update"])
    benchmarks = scores.reported_splits(study)
    by_split = evaluations.pivot_table(index="run", columns="split", values=metric)
    by_split["average"] = by_split[benchmarks].mean(axis=1, skipna=False)
    runs = runs.merge(by_split, left_on="run", right_index=True)
    shown = benchmarks if len(benchmarks) == 1 else [*benchmarks, "average"]
    found = rows.series(study, runs)
    lines = [
        [*names, len(group), *(statistics.estimate(group[split].to_numpy()) for split in shown)]
        for names, group in found.rows
    ]
    caption = f"{metric} at the update that is best on validation. {SEEDS} {found.words}"
    return Table([*found.columns, "n", *shown], lines, caption.strip())


def collapsed(group: pd.DataFrame) -> str:
    """How many runs of a series collapsed, and at which updates."""
    onsets = sorted(group["collapse"].dropna())
    text = f"{len(onsets)}/{len(group)}"
    return text + (f" at {', '.join(f'{u:.0f}' for u in onsets)}" if onsets else "")


def of_a_sweep(study: Study, metric: str = "sampled_accuracy", last: int = scores.LAST) -> dict[str, Table]:
    """The tables that every sweep gets, by name; one that fails says so in its place.

    metric: the accuracy, a name in eval.jsonl. last: evaluations in the last-k mean.
    """
    found = {
        "summary": made("summary", summary, study, metric, last),
        "decodings": made("decodings", decodings, study),
        "stability": made("stability", stability, study, metric),
    }
    if (study.used["staleness"] == 0).any():
        found["to_target"] = made("to_target", to_target, study, metric)
    return found | {"table1": made("table1", table1, study, metric)}


def _estimate(row: pd.Series) -> Estimate:
    return Estimate(row["value"], row["low"], row["high"], int(row["n"]))


def _place(name: str, value: object) -> object:
    """A value of an axis as it names a row: 3e-05, where a result would have three decimals."""
    if name == axes.METHOD:
        return style.look(str(value)).label
    return f"{value:g}" if isinstance(value, float) else value


def grouped(study: Study, names: Sequence[str], metric: str = "sampled_accuracy") -> Table:
    """A row for each combination of values of any columns of the run table or keys of the configuration, best first.

    metric: the accuracy, a name in eval.jsonl. Raises AnalysisError for an unknown name.
    """
    shown = ("area", "best", "final")
    parts = [axes.table(axes.along(study, names, metric, value), names) for value in shown]
    left = axes.axes(study, names)
    places = parts[0].sort_values("value", ascending=False).index
    lines = [
        [
            *map(_place, names, parts[0].loc[i, list(names)]),
            int(parts[0].loc[i, "n"]),
            *(_estimate(part.loc[i]) for part in parts),
        ]
        for i in places
    ]
    runs = scores.per_run(study, metric)
    over = f" Means are also over {', '.join(left)}, which {'differ' if len(left) > 1 else 'differs'}." if left else ""
    caption = f"In the order of {scores.OUTCOMES['area']}, {metric} on {scores.reported_split(study)}. {SEEDS}{over}"
    caption = " ".join([caption, *rows.spans(runs)])
    return Table([*names, "n", *shown], lines, caption)
