"""Accuracy problem by problem, from the counts in eval.jsonl: what a bootstrap over seeds and problems draws from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import scores, statistics
from analysis.statistics import Estimate
from analysis.study import Study


def counts_of(metric: str) -> str:
    """The column of counts behind an accuracy: sampled_accuracy → right, accuracy_top_p_0.7 → right_top_p_0.7."""
    known = {"sampled_accuracy": "right", "greedy_accuracy": "greedy_right"}
    return known.get(metric, metric.replace("accuracy_", "right_", 1))


def areas(study: Study, metric: str = "sampled_accuracy") -> pd.DataFrame:
    """Area under the accuracy curve of every problem of the reported split.

    metric: an accuracy of eval.jsonl. Returns a row a run, indexed by (seed, repeat, span) as `scores.by_seed` is, a
    column a problem; empty where the counts were not recorded (before 0.2) or the split is an average over
    benchmarks.
    """
    name, splits = counts_of(metric), scores.reported_splits(study)
    evaluations = study.evaluations
    if name not in evaluations or len(splits) > 1:
        return pd.DataFrame()
    rows = evaluations[(evaluations["split"] == splits[0]) & evaluations[name].notna()]
    samples = 1 if name == "greedy_right" else rows["k"]
    found, spans = {}, {}
    for run, group in rows.assign(samples=samples).sort_values("update").groupby("run", observed=True):
        right = np.stack(group[name].to_list()) / group["samples"].to_numpy()[:, None]
        updates = group["update"].to_numpy()
        span = updates[-1] - updates[0]
        spans[str(run)] = scores.span(updates)
        found[str(run)] = np.trapezoid(right, updates, axis=0) / span if span else right[-1]
    table = pd.DataFrame.from_dict(found, orient="index")
    keys = study.used.set_index("run").loc[table.index, ["seed", "repeat"]].assign(span=pd.Series(spans))
    return table.set_axis(pd.MultiIndex.from_frame(keys), axis=0)


def difference(a: pd.DataFrame, b: pd.DataFrame) -> Estimate | None:
    """a − b over the seeds that both have, with its interval over seeds and problems; None where nothing pairs.

    a, b: of `areas`.
    """
    seeds = a.index.intersection(b.index)
    if not len(seeds) or a.shape[1] != b.shape[1]:
        return None
    return statistics.hierarchical(a.loc[seeds].to_numpy() - b.loc[seeds].to_numpy())
