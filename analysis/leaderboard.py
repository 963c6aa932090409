"""Methods in the order of one named outcome, each beside its paired difference to GRPO and what that allows to say."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from analysis import inference, rows, scores, statistics
from analysis.study import Study
from analysis.tables import SEEDS, UNTUNED, collapsed
from analysis.tabular import Table

BASELINE = "grpo"
NO_BASELINE = "No run of GRPO at these staleness values and its reference setting: nothing is tested."


def leaderboard(study: Study, metric: str = "sampled_accuracy", outcome: str = scores.RANKED_BY) -> Table:
    """Methods in the order of an outcome under staleness, over the staleness values that they share.

    metric: the accuracy, a name in eval.jsonl. outcome: a column of `scores.per_run`, by which the table ranks.
    A seed counts where it has a run at every shared staleness: its value is the mean over them.
    """
    runs = scores.per_run(study, metric)
    shared = shared_staleness(runs)
    at = runs[runs["staleness"].isin(shared)]
    found = rows.series(study, at, ("algorithm", "setting"))
    base = at[(at["algorithm"] == BASELINE) & at["reference"]]
    complete = {index: _per_seed(group, outcome, shared) for index, (_, group) in enumerate(found.rows)}
    claims = _claims([group for _, group in found.rows], base, complete, outcome, shared)
    others = {
        name: scores.per_run(study, name).set_index("run")[outcome] for name in scores.other_decodings(study, metric)
    }
    ranked, lacking = [], []
    for index, (names, group) in enumerate(found.rows):
        if complete[index].empty:
            lacking.append([*names, len(group), _absent(group, shared), *["–"] * (5 + len(others)), collapsed(group)])
            continue
        score = statistics.estimate(complete[index].to_numpy())
        beside = [_mean(group.assign(**{outcome: group["run"].map(v)}), outcome, shared) for v in others.values()]
        worst = float(group.groupby("staleness")[outcome].mean().min())
        line = [*names, len(group), score, *beside, worst, *cells(claims.get(index)), collapsed(group)]
        ranked.append((score.value, line))
    ranked.sort(key=lambda item: -item[0])
    columns = [*found.columns, "runs", scores.OUTCOMES[outcome], *others, "worst s", "difference to GRPO", "p (Holm)"]
    columns += ["detectable", "against GRPO", "collapsed"]
    added = f"Beside it that of {', '.join(others)}, which need not rank alike." if others else ""
    caption = (
        f"Ranked by {scores.OUTCOMES[outcome]} of {metric}, averaged over s = {', '.join(map(str, shared))}. {added} "
        f"worst s: the lowest of them. {SEEDS} {inference_words(claims.values()) if len(base) else NO_BASELINE} "
        f"{found.words} {UNTUNED}"
    )
    lines = [row for _, row in ranked] + lacking
    return Table(columns, lines, " ".join(caption.split()))


def _mean(group: pd.DataFrame, outcome: str, shared: list[int]) -> float:
    return float(_per_seed(group, outcome, shared).mean())


def inference_words(claims: Iterable[inference.Claim], planned: int = 0) -> str:
    """What a caption says of the tests in a table with these claims. planned: of a registered family, if more."""
    made = sum(not math.isnan(claim.p) for claim in claims)
    family = f"{planned} comparisons, of which {made} were made" if planned > made else f"the {made} comparisons shown"
    return (
        f"Differences pair runs of one seed; p: sign-flip test, Holm over {family}; ahead or behind where "
        f"p < {inference.ALPHA:g}; equivalent: two one-sided t tests at ±{inference.MARGIN:g}, Holm; "
        f"detectable: the smallest true difference that a t test finds with {inference.POWER:.0%} power."
    )


def _claims(groups: list, base: pd.DataFrame, complete: dict, outcome: str, shared: list[int]) -> dict:
    """Index of a row → Claim against the baseline, the family being all rows that can be compared."""
    reference = _per_seed(base, outcome, shared)
    if reference.empty:
        return {}
    own = [i for i, group in enumerate(groups) if set(group["run"]) == set(base["run"])]
    family = {str(i): statistics.differences(values, reference).to_numpy()
              for i, values in complete.items() if i not in own and not values.empty}  # fmt: skip
    same = frozenset(i for i in family if rows.same_runs(groups[int(i)], base))
    made = {int(i): claim for i, claim in inference.claims(family, same).items()}
    seeds = set(reference.droplevel("span").index)
    return {i: replace(claim, words=inference.OTHER_SPAN)
            if claim.words == inference.NO_PAIR and seeds & set(complete[i].droplevel("span").index) else claim
            for i, claim in made.items()}  # fmt: skip


def cells(claim: inference.Claim | None) -> list[object]:
    """What a table shows of a claim: difference, p, what could have been detected, words."""
    if claim is None:
        return ["–", "–", "–", "–"]
    p = "–" if math.isnan(claim.p) else f"{claim.p:.3g}"
    return [claim.difference, p, claim.detectable, claim.words]


def _per_seed(group: pd.DataFrame, outcome: str, shared: list[int]) -> pd.Series:
    """The mean over the shared staleness values, of every seed that has them all.

    Indexed by what pairs it with another method's: seed, repeat, and the span of updates evaluated at each staleness.
    """
    if group.empty:
        return pd.Series(dtype=float)
    values = _wide(group, outcome, "mean").reindex(columns=shared)
    means = values.mean(axis=1, skipna=False).replace([np.inf, -np.inf], np.nan).dropna()
    spans = _wide(group, "span", "first").reindex(columns=shared).loc[means.index]
    held = pd.Series([", ".join(row) for row in spans.to_numpy()], index=means.index, dtype=object, name="span")
    return means.to_frame("value").set_index(held, append=True)["value"]


def _wide(group: pd.DataFrame, value: str, of: Literal["mean", "first"]) -> pd.DataFrame:
    """A column of the runs with a row a seed and a column a staleness."""
    return group.pivot_table(values=value, index=["seed", "repeat"], columns="staleness", aggfunc=of)


def _absent(group: pd.DataFrame, shared: list[int]) -> str:
    absent = [str(s) for s in shared if s not in set(group["staleness"])]
    return f"no run at s = {', '.join(absent)}" if absent else "no seed with every s"


def shared_staleness(runs: pd.DataFrame) -> list[int]:
    """The staleness values > 0 that at least half of the methods have (0 if none was run with staleness)."""
    counts = runs[runs["staleness"] > 0].groupby("staleness")["algorithm"].nunique()
    enough = counts[counts >= counts.max() / 2] if len(counts) else counts
    return [int(s) for s in sorted(enough.index)] or [0]
