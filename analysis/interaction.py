"""Whether what a method gains over another depends on where: a difference of two paired differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import across, inference, scores, series, statistics, style
from analysis.errors import AnalysisError
from analysis.study import Study
from analysis.tabular import Table

OUTCOMES = (across.METRIC, "end", across.OTHER)  # the first is tested
UNTESTED = ["–"] * 3


def table(study: Study, method: str, places: Sequence[str], against: str = "grpo") -> Table:
    """(method − against) in one place minus the same in another, paired by seed, with one test of the first outcome.

    study: runs of both methods in both places, in each with one setting. method, against: algorithms. places: two of
    TASK:STALENESS. Returns three rows an outcome (the area of sampled accuracy, its last evaluation, the area of greedy
    accuracy): both places, and their difference.
    Raises AnalysisError where a side has no runs, or no seed is on all four.
    """
    runs = across.per_seed(study)
    sides = [_side(runs, place, name) for place in places for name in (method, against)]
    seeds = [set(side.index) for side in sides]
    shared, lacking = set.intersection(*seeds), set.union(*seeds) - set.intersection(*seeds)
    if not shared:
        raise AnalysisError(f"{' and '.join(places)}: no seed that {method} and {against} have in both")
    lines: list[list[object]] = []
    for outcome in [name for name in OUTCOMES if name in runs]:
        values = [side.loc[sorted(shared), outcome].to_numpy() for side in sides]
        told = _told(values) if outcome == across.METRIC else UNTESTED
        rows = [(places[0], *values[:2], UNTESTED), (places[1], *values[2:], UNTESTED),
                (" − ".join(places), values[0] - values[2], values[1] - values[3], told)]  # fmt: skip
        for place, own, other, last in rows:
            estimates = map(statistics.estimate, (own, other, own - other))
            lines.append(["last" if outcome == "end" else f"area, {outcome}", place, len(shared), *estimates, *last])
    labels = [style.look(name).label for name in (method, against)]
    left_out = f" Seeds left out, which not all four have: {', '.join(map(str, sorted(lacking)))}." if lacking else ""
    caption = (
        f"Means over the seeds that all four have, on {scores.reported_split(study)}, with 95 % t intervals. The last "
        "row of an outcome is the first place minus the second; p: exact sign-flip test of its difference of "
        "differences, alone; detectable: the smallest true one that a t test finds with 90 % power. Beside the task "
        f"and the staleness the places differ in {_differing(study, (method, against), places)}. "
        f"{across.carried_forward(runs[runs['algorithm'].isin([method, against])])}{left_out}"
    )
    columns = ["outcome", "place", "n", *labels, " − ".join(labels), "p", "detectable", "said"]
    return Table(columns, lines, caption)


def _told(values: Sequence[np.ndarray]) -> list[object]:
    """p, detectable difference and words. values: [seeds] of the method and the other, here and then there."""
    change = (values[0] - values[1]) - (values[2] - values[3])
    p = float(inference.sign_flip(change))
    return [f"{p:.3g}", inference.detectable_in(change), inference.words_alone(change, p)]


def _differing(study: Study, methods: Sequence[str], places: Sequence[str]) -> str:
    """The keys in which the runs of a method and a seed are unlike in the two places, in words."""
    used = study.used[study.used["algorithm"].isin(methods) & _places(study.used).isin(places)]
    keys: set[str] = set()
    for _, group in used.groupby(["algorithm", "seed"]):
        keys |= series.differing(group.to_dict("records"))
    return ", ".join(sorted(keys)) or "nothing"


def _places(runs: pd.DataFrame) -> pd.Series:
    """TASK:STALENESS of every run."""
    return runs["task"] + ":" + runs["staleness"].astype(str)


def _side(runs: pd.DataFrame, place: str, method: str) -> pd.DataFrame:
    """What a method reached in a place, indexed by seed."""
    side = runs[(_places(runs) == place) & (runs["algorithm"] == method)].set_index("seed")
    if side.empty:
        known = ", ".join(sorted(set(_places(runs))))
        raise AnalysisError(f"no run of {method} at {place}; expected TASK:STALENESS, there are {known}")
    return side
