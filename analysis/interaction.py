"""Whether what a method gains over another depends on where: a difference of two paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import across, inference, scores, statistics, style
from analysis.errors import AnalysisError
from analysis.study import Study
from analysis.tabular import Table

OUTCOMES = (across.METRIC, "end", across.OTHER)  # the first is tested


def table(study: Study, method: str, places: Sequence[str], against: str = "grpo") -> Table:
    """(method − against) in one place minus the same in another, paired by seed, with one test of the first outcome.

    study: runs of both methods in both places, in each with one setting. method, against: algorithms. places: two of
    TASK:STALENESS. Returns three rows an outcome (the area of sampled accuracy, its last evaluation, the area of greedy
    accuracy): both places, and their difference.
    Raises AnalysisError where a side has no runs, or no seed is on all four.
    """
    runs = across.per_seed(study)
    first, second = (_sides(runs, place, (method, against)) for place in places)
    lines = []
    for outcome in [name for name in OUTCOMES if name in runs]:
        values = pd.concat([side[outcome] for side in (*first, *second)], axis=1, join="inner").dropna().to_numpy().T
        if not values.size:
            raise AnalysisError(f"{' and '.join(places)}: no seed that {method} and {against} have in both")
        here, there = values[:2], values[2:]
        for place, (own, other) in zip(places, (here, there), strict=True):
            lines.append(
                [_name(outcome), place, len(own), *map(statistics.estimate, (own, other, own - other)), *["–"] * 3]
            )
        own, other = here - there
        change = own - other
        told: list[object] = ["–", "–", "–"]
        if outcome == across.METRIC:
            p = float(inference.sign_flip(change))
            seen = inference.detectable(float(change.std(ddof=1)) if len(change) > 1 else float("nan"), len(change))
            told = [f"{p:.3g}", seen, inference.alone(change, p)]
        lines.append(
            [_name(outcome), " − ".join(places), len(change), *map(statistics.estimate, (own, other, change)), *told]
        )
    labels = [style.look(name).label for name in (method, against)]
    caption = (
        f"Means over the seeds that all four have, on {scores.reported_split(study)}, with 95 % t intervals. The last "
        "row of an outcome is the first place minus the second; p: exact sign-flip test of its difference of "
        "differences, alone; detectable: the smallest true one that a t test finds with 90 % power. "
        f"{across.carried_forward(runs[runs['algorithm'].isin([method, against])])}"
    )
    columns = ["outcome", "place", "n", *labels, " − ".join(labels), "p", "detectable", "said"]
    return Table(columns, lines, caption)


def _name(outcome: str) -> str:
    return "last" if outcome == "end" else f"area, {outcome}"


def _sides(runs: pd.DataFrame, place: str, methods: Sequence[str]) -> list[pd.DataFrame]:
    """What each method reached in a place, indexed by seed."""
    here = runs[(runs["task"] + ":" + runs["staleness"].astype(str)) == place]
    sides = [here[here["algorithm"] == name].set_index("seed") for name in methods]
    for name, side in zip(methods, sides, strict=True):
        if side.empty:
            known = sorted(set(runs["task"] + ":" + runs["staleness"].astype(str)))
            raise AnalysisError(f"no run of {name} at {place}; expected TASK:STALENESS, there are {', '.join(known)}")
    return sides
