"""What each run reached: accuracy curves, the numbers read off them, and their estimates over seeds.

Every definition stands in docs/analysis.md.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import outcomes
from analysis.errors import AnalysisError, MissingData, unknown
from analysis.statistics import estimate
from analysis.study import Study

RANKED_BY = "area"  # the one outcome that orders methods
OUTCOMES = {"area": "area under the curve", "final": "last evaluation", "last_k": "mean of the last evaluations"}
LAST = 3  # evaluations in the last-k mean


def accuracy_curves(study: Study, metric: str = "sampled_accuracy", purpose: str = "report") -> pd.DataFrame:
    """The accuracy of every run at every evaluation.

    metric: a name in eval.jsonl.
    purpose: "select" reads the validation split. "report" reads the test split; without one, the mean over the
    benchmarks; without those, validation itself (see `reported_split`).
    Returns one row a run and evaluated update: `run update accuracy`, sorted.
    Raises MissingData without evaluations, AnalysisError for an unknown metric and for an accuracy that is none.
    """
    rows = study.evaluations
    if "split" not in rows.columns:
        raise MissingData("needs evaluations (eval.jsonl)")
    if metric not in rows.columns or metric in ("update", "run", "split"):
        raise unknown("evaluation metric", metric, evaluation_metrics(study))
    splits = _splits(study, purpose)
    rows = rows[rows["split"].isin(splits) & rows[metric].notna()]
    if "accuracy" in metric or metric.startswith("pass_at"):
        wrong = rows[~rows[metric].between(0, 1)]
        if len(wrong):
            row = wrong.iloc[0]
            raise AnalysisError(f"{row['run']}: {metric} is {row[metric]:g} at update {row['update']}; expected 0 to 1")
    curves = rows.groupby(["run", "update"], observed=True)[metric].agg(["mean", "size"]).reset_index()
    curves = curves[curves["size"] == curves["size"].max()]  # an average over fewer benchmarks is another one
    curves = curves.drop(columns="size").rename(columns={"mean": "accuracy"})
    return curves.sort_values(["run", "update"], ignore_index=True)


def evaluation_metrics(study: Study) -> list[str]:
    """The names in eval.jsonl that have numbers."""
    rows = study.evaluations.select_dtypes("number")
    return [n for n in rows.columns if n not in ("update", "n", "k", "staleness", "seed", "repeat", "reference")]


def decodings(study: Study) -> list[str]:
    """The accuracies that stand side by side, recorded or not: sampled, greedy, top_p 0.7 (or others), pass@k."""
    names = list(study.evaluations.columns)
    truncated = sorted(name for name in names if name.startswith("accuracy_top_p_")) or ["accuracy_top_p_0.7"]
    passed = [name for name in names if name.startswith("pass_at_k.")]
    most = sorted(passed, key=lambda name: int(name.rpartition(".")[2]))[-1:]
    return ["sampled_accuracy", "greedy_accuracy", *truncated, *most]


def recorded(study: Study, metrics: list[str]) -> list[str]:
    """Those of the metrics that some evaluation has."""
    rows = study.evaluations
    return [name for name in metrics if name in rows and rows[name].notna().any()]


def other_decodings(study: Study, metric: str) -> list[str]:
    """The recorded accuracies that stand beside the one that ranks: they need not rank alike."""
    return [name for name in recorded(study, decodings(study)) if name != metric]


def drift(study: Study) -> pd.Series:
    """Mean of k1 over the updates of every run, in nats: how far the policy moved from the one that sampled."""
    if "k1" not in study.updates:
        return pd.Series(dtype=float)
    means = study.updates.groupby("run", observed=True)["k1"].mean()
    return means.set_axis(means.index.astype(str))


def _splits(study: Study, purpose: str) -> list[str]:
    names = sorted(study.evaluations["split"].dropna().unique())
    if purpose == "select":
        return ["validation"] if "validation" in names else names
    if "test" in names:
        return ["test"]
    return [split for split in names if split != "validation"] or names


def reported_splits(study: Study) -> list[str]:
    """The splits that accuracies are reported on: test, else the benchmarks, else validation."""
    return _splits(study, "report")


def reported_split(study: Study) -> str:
    """In words, which split the accuracies are from."""
    splits = reported_splits(study)
    return splits[0] if len(splits) == 1 else f"mean of {len(splits)} benchmarks"


def per_run(study: Study, metric: str = "sampled_accuracy", last: int = LAST) -> pd.DataFrame:
    """The numbers of each run that tables and figures show.

    metric: the accuracy, a name in eval.jsonl. last: evaluations in the last-k mean.
    Returns one row a run: its identity, `best` (at the update best on validation), `best_update`, `final` (the last
    evaluation), `last_k`, `area`, `initial`, `collapse` (update of onset, NaN if none), `drawdown` (its depth),
    `drawdown_updates`, `share_fallen`, `first_fall` (updates, inf if none), `observed` (the last update evaluated),
    `span` ("0 to 800", the first and last update evaluated).
    Raises AnalysisError for last < 1.
    """
    if last < 1:
        raise AnalysisError(f"mean of the last {last} evaluations: expected at least 1")
    report = accuracy_curves(study, metric)
    select = accuracy_curves(study, metric, "select")
    chosen = select.loc[select.groupby("run", observed=True)["accuracy"].idxmax(), ["run", "update"]]
    best = chosen.merge(report, on=["run", "update"]).set_index("run")
    rows = []
    for run, curve in report.groupby("run", observed=True):
        updates, accuracy = curve["update"].to_numpy(), curve["accuracy"].to_numpy()
        rows.append(
            {
                "run": run,
                "best": best["accuracy"].get(run, math.nan),
                "best_update": best["update"].get(run, math.nan),
                "final": accuracy[-1],
                "last_k": outcomes.last_mean(updates, accuracy, last),
                "area": outcomes.area(updates, accuracy),
                "initial": accuracy[0],
                "collapse": collapse_onset(updates, accuracy),
                **dict(zip(("drawdown", "drawdown_updates"), outcomes.drawdown(updates, accuracy), strict=True)),
                "share_fallen": outcomes.share_fallen(updates, accuracy),
                "first_fall": outcomes.first_fall(updates, accuracy),
                "observed": updates[-1],
                "span": span(updates),
            }
        )
    identity = study.used.drop(columns=["versions", "folder"])
    return identity.merge(pd.DataFrame(rows), on="run", how="inner")


def span(updates: np.ndarray) -> str:
    """The first and last update at which a run was evaluated, "0 to 800". updates: [n], of its evaluations."""
    return f"{updates[0]:.0f} to {updates[-1]:.0f}"


def frame(study: Study, metric: str = "sampled_accuracy", last: int = LAST) -> pd.DataFrame:
    """Everything about every run in one table, for questions of one's own.

    metric: the accuracy, a name in eval.jsonl. last: evaluations in the last-k mean.
    Returns the rows of `per_run` with a column for every key of the configuration ("learner.lr").
    """
    found = per_run(study, metric, last)
    configs = pd.DataFrame([json.loads(text) for text in found["config"]], index=found.index)
    new = configs.columns.difference(found.columns, sort=False)
    return pd.concat([found.drop(columns=["config", "roles"]), configs[new]], axis=1)


def summarise(runs: pd.DataFrame, value: str) -> pd.DataFrame:
    """The estimate of one number per algorithm × staleness × setting.

    runs: rows of `per_run`. value: a column of them.
    Returns columns algorithm, staleness, setting, reference, value, low, high, n.
    """
    keys = ["algorithm", "staleness", "setting", "reference"]
    rows = [
        dict(zip(keys, key, strict=True)) | vars(estimate(group[value].to_numpy()))
        for key, group in runs.groupby(keys, observed=True, sort=True)
    ]
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "n"])


def by_seed(runs: pd.DataFrame, value: str) -> pd.Series:
    """One number of each run, indexed by what pairs runs of two methods: seed, repeat, and the span of updates over
    which it was evaluated, since an area or a last evaluation over another span is another quantity.

    runs: rows of `per_run`, one series. value: a column of them.
    """
    return runs.set_index(["seed", "repeat", "span"])[value]


def updates_to_target(updates: np.ndarray, accuracy: np.ndarray, target: float) -> float:
    """The first update at which the straight line between evaluations reaches a target.

    updates, accuracy: [n], of one run. target: accuracy. Returns updates; inf if none does.
    """
    reached = np.flatnonzero(np.asarray(accuracy) >= target)
    if not len(reached):
        return math.inf
    at = int(reached[0])
    if at == 0:
        return float(updates[0])
    share = (target - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
    return float(updates[at - 1] + share * (updates[at] - updates[at - 1]))


def collapse_onset(
    updates: np.ndarray, accuracy: np.ndarray, *, share: float = 0.5, drop: float = 0.05, stays: int = 2
) -> float:
    """The update from which accuracy stays far below the best before it.

    updates, accuracy: [n], of one run. share: below this share of the best. drop: and at least so far below it.
    stays: the last so many evaluations must be below: one bad evaluation at the end is no collapse, nor is noise on a
    policy that never learned anything.
    Returns the update of onset, NaN if there is none.
    """
    accuracy = np.asarray(accuracy, dtype=float)
    best = np.maximum.accumulate(accuracy)
    below = (accuracy < share * best) & (best - accuracy >= drop)
    held = int(np.argmin(below[::-1])) if not below.all() else len(below)
    return float(updates[len(updates) - held]) if held >= stays else math.nan


@dataclass(frozen=True)
class Target:
    """An accuracy to reach, and what it is a share of."""

    accuracy: float
    words: str
    baseline: tuple[str, int]


def default_target(study: Study, share: float = 0.9, metric: str = "sampled_accuracy") -> Target | None:
    """The accuracy that `cost_of_staleness` asks for.

    share: of the way from the first accuracy to on-policy GRPO's last-k mean (else that of the best at s = 0).
    metric: the accuracy.
    Returns None without on-policy runs, or where these gained nothing: the target would stand at or below their start.
    """
    final = per_run(study, metric)
    final = final[final["reference"] & (final["staleness"] == 0)]
    if final.empty:
        return None
    ends = final.groupby("algorithm", observed=True)["last_k"].mean()
    name = "grpo" if "grpo" in ends.index else str(ends.idxmax())
    own = final[final["algorithm"] == name]
    start, end = float(own["initial"].mean()), float(own["last_k"].mean())
    if not end > start:
        return None
    words = f"{share:.0%} of what {name} gains on-policy"
    return Target(start + share * (end - start), words, (name, 0))


def cost_of_staleness(study: Study, target: Target, metric: str = "sampled_accuracy") -> pd.DataFrame:
    """Updates and samples until a target, per run, and their ratio to the on-policy baseline of the same seed.

    A run that never gets there is censored: it counts as the last update that every run was evaluated at (the
    horizon), so that means over runs are restricted means and no seed is left out.

    Returns a row a run, with `reached` (before the horizon), `horizon`, updates_to_target, samples_to_target, ratio.
    """
    curves = accuracy_curves(study, metric)
    runs = study.used[study.used["reference"]].set_index("run")
    curves = curves[curves["run"].isin(runs.index)]
    horizon = float(curves.groupby("run", observed=True)["update"].max().min())
    rows = []
    for run, curve in curves.groupby("run", observed=True):
        at = updates_to_target(curve["update"].to_numpy(), curve["accuracy"].to_numpy(), target.accuracy)
        own, counted = runs.loc[run], float(outcomes.restricted(np.array([at]), horizon)[0])
        rows.append(
            {
                "run": run,
                **{k: own[k] for k in ("algorithm", "staleness", "setting", "reference", "seed", "repeat")},
                "reached": at <= horizon,
                "horizon": horizon,
                "updates_to_target": counted,
                "samples_to_target": counted * own["responses_per_update"],
            }
        )
    frame = pd.DataFrame(rows)
    base = frame[(frame["algorithm"] == target.baseline[0]) & (frame["staleness"] == target.baseline[1])]
    baseline = base.groupby("seed")["updates_to_target"].mean().rename("baseline")
    frame = frame.merge(baseline, on="seed", how="left")
    frame["ratio"] = frame["updates_to_target"] / frame["baseline"].where(frame["baseline"] > 0)
    return frame
