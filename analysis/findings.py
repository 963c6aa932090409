"""What the runs say, in sentences with numbers. They describe: which method is better is not decided here."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import scores, statistics, style
from analysis.errors import MissingData
from analysis.figures import selection
from analysis.statistics import Estimate
from analysis.study import Study


def findings(study: Study, metric: str = "sampled_accuracy") -> list[str]:
    """Sentences about the reference runs, on policy and at the largest staleness.

    metric: the accuracy, a name in eval.jsonl.
    Returns sentences, the most important first.
    """
    study, _ = selection.reference(study)
    runs = scores.per_run(study, metric)
    on_policy = runs[(runs["algorithm"] == "grpo") & (runs["staleness"] == 0)]
    sentences = []
    if len(on_policy):
        reached = statistics.estimate(on_policy["last_k"].to_numpy())
        sentences.append(f"On-policy GRPO ends at {_value(reached)} accuracy.")
    try:
        stale = selection.stalest(study)
    except MissingData:
        return [*sentences, "No run was stale: the question stays open."]
    at = runs[runs["staleness"] == stale]
    sentences += _differences_to_grpo(at, stale)
    for algorithm in style.order(at["algorithm"]):
        sentences.append(_method(at[at["algorithm"] == algorithm], on_policy, algorithm, stale))
    return sentences + _about_seeds(at)


def _method(group: pd.DataFrame, on_policy: pd.DataFrame, algorithm: str, stale: int) -> str:
    label = style.look(algorithm).label
    text = f"{label} at s = {stale} ends at {_value(statistics.estimate(group['last_k'].to_numpy()))}"
    difference = _paired(group, on_policy)
    if difference.n:
        text += f", {_signed(difference)} against on-policy GRPO"
    onsets = group["collapse"].dropna()
    if len(onsets):
        at = f"{onsets.min():.0f}" if onsets.nunique() == 1 else f"{onsets.min():.0f} to {onsets.max():.0f}"
        text += f"; {len(onsets)} of {len(group)} runs collapse, from update {at}"
    return text + "."


def _differences_to_grpo(at: pd.DataFrame, stale: int) -> list[str]:
    base = at[at["algorithm"] == "grpo"]
    others = style.order(set(at["algorithm"]) - {"grpo"})
    if base.empty or not others:
        return []
    each = [f"{style.look(a).label} {_signed(_paired(at[at['algorithm'] == a], base))}" for a in others]
    return [f"At s = {stale}, difference in final accuracy to GRPO of the same seed: {', '.join(each)}."]


def _about_seeds(at: pd.DataFrame) -> list[str]:
    """What the smallest number of seeds allows to say."""
    fewest = int(at.groupby("algorithm").size().min())
    if fewest < statistics.MIN_SEEDS:
        return ["Some cells have fewer than three seeds: they carry no interval, and no claim."]
    if fewest == statistics.MIN_SEEDS:
        return ["With three seeds the interval is the range from the smallest to the largest of them."]
    return []


def _paired(a: pd.DataFrame, b: pd.DataFrame) -> Estimate:
    return statistics.paired_difference(scores.by_seed(a, "last_k"), scores.by_seed(b, "last_k"))


def _value(e: Estimate) -> str:
    if np.isnan(e.low):
        return f"{e.value:.3f} (n = {e.n}, no interval)"
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}] (n = {e.n})"


def _signed(e: Estimate) -> str:
    if e.n == 0:
        return "(no pair of seeds)"
    if np.isnan(e.low):
        return f"{e.value:+.3f} (n = {e.n}, no interval)"
    return f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"
