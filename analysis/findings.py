"""What the runs say, in sentences with numbers. They describe; "ahead" and "behind" stand only where the
test of analysis/inference.py allows them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import axes, leaderboard, scores, statistics, style
from analysis.errors import MissingData
from analysis.figures import selection
from analysis.rows import IDLE
from analysis.statistics import Estimate
from analysis.study import Study

SIDES = {"ahead": "ahead of GRPO", "behind": "behind GRPO"}


def answer(study: Study, metric: str = "sampled_accuracy") -> str:
    """One sentence: what the study says about what it varies, with its n and its test.

    metric: the accuracy, a name in eval.jsonl.
    """
    names = axes.of_sweep(study)
    others = [name for name in names if name not in (axes.METHOD, axes.STALENESS)]
    return _of_places(study, names, metric) if others else _of_methods(study, metric)


def _of_methods(study: Study, metric: str) -> str:
    """Methods against GRPO, as the leaderboard below it has them, those with one verdict together."""
    table = leaderboard.leaderboard(study, metric)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    pairs = [(row, d) for row in rows if isinstance(d := row["difference to GRPO"], Estimate) and d.n]
    stale = ", ".join(map(str, leaderboard.shared_staleness(scores.per_run(study, metric))))
    words = scores.OUTCOMES[scores.RANKED_BY]
    if not pairs:
        reasons = sorted({str(row["against GRPO"]) for row in rows} - {"–"}) or [_nothing_beside(study)]
        found = ", ".join(
            f"{_name(row)} {score.value:.3f}" for row in rows if isinstance(score := row[words], Estimate)
        )
        return f"At s = {stale}, {words} of {metric}: {found or '–'}. Not compared with GRPO: {'; '.join(reasons)}."
    said: dict[str, list[str]] = {}
    for row, difference in pairs:
        verdict, name = str(row["against GRPO"]), _name(row)
        side, *close = verdict.split(", ")
        if side in SIDES:
            verdict, name = ", ".join([SIDES[side], *close]), f"{name} ({difference.value:+.3f})"
        said.setdefault(verdict, []).append(name)
    n = sorted({difference.n for _, difference in pairs})
    seeds = f"{n[0]} to {n[-1]}" if len(n) > 1 else n[0]
    verdicts = "; ".join(f"{', '.join(names)}: {verdict}" for verdict, names in said.items())
    test = f"n = {seeds}, sign-flip test, Holm over {len(pairs)}"
    mean = "mean over " if "," in stale else "at "
    return f"By {words} of {metric}, {mean}s = {stale}, against GRPO of the same seed ({test}): {verdicts}."


def _nothing_beside(study: Study) -> str:
    methods = set(study.used["algorithm"])
    if leaderboard.BASELINE not in methods:
        return "there is no run of GRPO"
    return "the other methods ended with its weights" if len(methods) > 1 else "there is no other method"


def _name(row: dict[str, object]) -> str:
    """A row of the leaderboard as a sentence names it."""
    name = str(row["algorithm"]).removesuffix(f" {IDLE}")
    return f"{name} with {row['setting']}" if "setting" in row else name


def _of_places(study: Study, names: list[str], metric: str) -> str:
    """The highest and the lowest place of a search; not tested, for one looks at all of them to choose these."""
    one, _ = selection.one_model(study)
    table = axes.table(axes.along(one, names, metric), names).dropna(subset="value").sort_values("value")
    ends = table.iloc[0], table.iloc[-1]
    what = f"Of {len(table)} combinations of {', '.join(names)}, {scores.OUTCOMES[scores.RANKED_BY]} of {metric} is"
    values = {f"{row['value']:.3f}" for row in ends}
    if len(values) == 1:
        return f"{what} {values.pop()} at every one, to three places."
    low, high = (_place(row, names) for row in ends)
    return f"{what} highest, {high}, and lowest, {low}; not tested, since all were looked at to name these."


def _place(row: pd.Series, names: list[str]) -> str:
    """ "0.632 [0.620, 0.645] (n = 3) at s = 64"."""
    found = Estimate(row["value"], row["low"], row["high"], int(row["n"]))
    values = [style.look(str(row[name])).label if name == axes.METHOD else row[name] for name in names]
    return f"{_value(found)} at {axes.words(names, values)}"


def findings(study: Study, metric: str = "sampled_accuracy") -> list[str]:
    """Sentences about the reference runs, on policy and at the largest staleness.

    metric: the accuracy, a name in eval.jsonl.
    Returns sentences, the most important first.
    """
    try:
        study, _ = selection.reference(study)
    except MissingData as reason:
        return [f"One curve a method says little here: it {reason}."]
    runs = scores.per_run(study, metric)
    on_policy = runs[(runs["algorithm"] == "grpo") & (runs["staleness"] == 0)]
    try:
        stale = selection.stalest(study)
    except MissingData:
        return [*_on_policy(on_policy, metric), "No run was stale: the question stays open."]
    at = runs[runs["staleness"] == stale]
    sentences = [*_against_grpo(study, stale, metric), *_on_policy(on_policy, metric)]
    for algorithm in style.order(at["algorithm"]):
        sentences.append(_method(at[at["algorithm"] == algorithm], on_policy, algorithm, stale))
    return sentences + _about_seeds(at)


def _on_policy(group: pd.DataFrame, metric: str) -> list[str]:
    if group.empty:
        return []
    reached = _value(statistics.estimate(group[scores.RANKED_BY].to_numpy()))
    return [f"On-policy GRPO: {scores.OUTCOMES[scores.RANKED_BY]} of {metric} {reached}."]


def _method(group: pd.DataFrame, on_policy: pd.DataFrame, algorithm: str, stale: int) -> str:
    label = style.look(algorithm).label
    text = f"{label} at s = {stale}: {_value(statistics.estimate(group[scores.RANKED_BY].to_numpy()))}"
    difference = _paired(group, on_policy)
    if difference.n:
        text += f", {_signed(difference)} against on-policy GRPO"
    text += f"; last evaluation {_value(statistics.estimate(group['final'].to_numpy()))}"
    fallen = group["first_fall"][np.isfinite(group["first_fall"])]
    if len(fallen):
        text += (
            f"; {len(fallen)} of {len(group)} runs fall below half of their best, first at update {fallen.min():.0f}"
        )
    return text + "."


def _against_grpo(study: Study, stale: int, metric: str) -> list[str]:
    """The answer in one sentence, with its n and its test."""
    table = leaderboard.leaderboard(study.where(staleness=stale), metric)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    each = [
        f"{row['algorithm']} {_signed(difference)} ({row['against GRPO']})"
        for row in rows
        if isinstance(difference := row["difference to GRPO"], Estimate)
    ]
    if not each:
        return []
    return [
        f"At s = {stale}, {scores.OUTCOMES[scores.RANKED_BY]} of {metric} minus that of GRPO of the same seed "
        f"(sign-flip test, Holm over {len(each)}): {'; '.join(each)}."
    ]


def _about_seeds(at: pd.DataFrame) -> list[str]:
    """What the smallest number of seeds allows to say."""
    fewest = int(at.groupby("algorithm").size().min())
    if fewest < statistics.MIN_SEEDS:
        return ["Some cells have fewer than three seeds: they carry no interval, and no claim."]
    return []


def _paired(a: pd.DataFrame, b: pd.DataFrame) -> Estimate:
    return statistics.paired_difference(scores.by_seed(a, scores.RANKED_BY), scores.by_seed(b, scores.RANKED_BY))


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
