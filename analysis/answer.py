"""The question and its answer in numbers: what the study supports, and where it does not carry a claim."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import statistics, style
from analysis.errors import MissingData
from analysis.figures import common
from analysis.runs import Study
from analysis.statistics import Estimate

QUESTION = (
    "How stale may rollouts be before reinforcement learning slows down or collapses, and which stabiliser "
    "holds out longest?"
)


def answer(study: Study, metric: str = "sampled_accuracy") -> list[str]:
    """Sentences, the most important first. A difference whose interval holds 0 is called open."""
    study, _ = common.reference(study)
    runs = statistics.scores(study, metric)
    on_policy = runs[(runs["algorithm"] == "grpo") & (runs["staleness"] == 0)]
    sentences = []
    if len(on_policy):
        reached = statistics.estimate(on_policy["last_k"].to_numpy())
        sentences.append(f"On-policy GRPO ends at {_value(reached)} accuracy.")
    try:
        stale = common.stalest(study)
    except MissingData:
        return [*sentences, "No run was stale: the question stays open."]
    at = runs[runs["staleness"] == stale]
    sentences += _against_grpo(at, stale)
    for algorithm in style.order(at["algorithm"]):
        sentences.append(_method(at[at["algorithm"] == algorithm], on_policy, algorithm, stale))
    if (at.groupby("algorithm").size() < statistics.MIN_SEEDS).any():
        sentences.append("Some cells have fewer than three seeds: they carry no interval, and no claim.")
    return sentences


def _method(group: pd.DataFrame, on_policy: pd.DataFrame, algorithm: str, stale: int) -> str:
    label = style.look(algorithm).label
    text = f"{label} at s = {stale} ends at {_value(statistics.estimate(group['last_k'].to_numpy()))}"
    if len(on_policy):
        difference = statistics.paired_difference(
            statistics.by_seed(group, "last_k"), statistics.by_seed(on_policy, "last_k")
        )
        if difference.n:
            text += f", {_signed(difference)} against on-policy GRPO"
    onsets = group["collapse"].dropna()
    if len(onsets):
        at = f"{onsets.min():.0f}" if onsets.nunique() == 1 else f"{onsets.min():.0f} to {onsets.max():.0f}"
        text += f"; {len(onsets)} of {len(group)} runs collapse, from update {at}"
    return text + "."


def _against_grpo(at: pd.DataFrame, stale: int) -> list[str]:
    """Which methods beat GRPO under the same staleness, which lose, and which cannot be told apart."""
    base = at[at["algorithm"] == "grpo"]
    if base.empty:
        return []
    groups: dict[str, list[str]] = {"ahead of": [], "behind": [], "not told apart from": []}
    for algorithm in style.order(set(at["algorithm"]) - {"grpo"}):
        group = at[at["algorithm"] == algorithm]
        difference = statistics.paired_difference(
            statistics.by_seed(group, "last_k"), statistics.by_seed(base, "last_k")
        )
        side = "ahead of" if difference.low > 0 else "behind" if difference.high < 0 else "not told apart from"
        groups[side].append(f"{style.look(algorithm).label} ({_signed(difference)})")
    return [
        f"At s = {stale}, {side} GRPO of the same seed: {', '.join(names)}." for side, names in groups.items() if names
    ]


def _value(e: Estimate) -> str:
    if np.isnan(e.low):
        return f"{e.value:.3f} (n = {e.n}, no interval)"
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}] (n = {e.n})"


def _signed(e: Estimate) -> str:
    if e.n == 0:
        return "no pair of seeds"
    if np.isnan(e.low):
        return f"{e.value:+.3f} (n = {e.n}, no interval)"
    return f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"
