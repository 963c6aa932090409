"""Distributions of ages beside each other: contrasts of two, averaged over the methods, tested in the order given."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis import across, inference, scores, series, statistics, style
from analysis.errors import AnalysisError, MissingData
from analysis.study import Study
from analysis.tabular import Table

ALL = "mean of methods"
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
Sides = tuple[str, str]


@dataclass(frozen=True)
class Contrast:
    """One distribution of ages minus another, paired by seed.

    sides: both, as at `staleness=`. pairs: long rows `metric algorithm seed value`, metric being the area under an
    accuracy by its name or `end`, algorithm a method or ALL. p: of the sign-flip test of ALL, NaN where none was made.
    said: what that allows to say, "" where nothing was asked.
    """

    sides: Sides
    pairs: pd.DataFrame
    p: float
    said: str

    @property
    def name(self) -> str:
        """The contrast as text."""
        return " − ".join(self.sides)

    @property
    def methods(self) -> list[str]:
        """The methods that have both sides, in the order of the palette."""
        return [name for name in style.order(self.pairs["algorithm"]) if name != ALL]

    def of(self, metric: str, algorithm: str = ALL) -> pd.Series:
        """The differences of a method, indexed by seed."""
        rows = self.pairs[(self.pairs["metric"] == metric) & (self.pairs["algorithm"] == algorithm)]
        return rows.set_index("seed")["value"]


def contrasts(study: Study, asked: Sequence[Sides], scale: Sequence[Sides] = ()) -> list[Contrast]:
    """Paired differences between distributions of ages; those asked for are tested in their order, each at .05.

    None is tested after the first that is not rejected, so the error of all together is .05. "The same" needs no test:
    it is said where the 95 % interval lies within the margin.

    study: runs at several values of `staleness`, of one or more methods. asked: pairs of values, A and B for A − B.
    scale: pairs that are shown beside them and not tested.
    Raises AnalysisError where a side has no runs, a method has runs at one side only or several settings or two runs of
    a seed, and for a contrast that is none or is asked for twice.
    """
    recorded = {_spelt(text): text for text in _ages(study).values()}
    asked, scale = ([(_recorded(a, recorded), _recorded(b, recorded)) for a, b in pairs] for pairs in (asked, scale))
    for number, sides in enumerate(asked):
        if sides[0] == sides[1] or {*sides} in [{*other} for other in asked[:number]]:
            raise AnalysisError(f"the contrast {sides[0]} {sides[1]}: expected two ages that differ, each pair once")
    values = _per_seed(_of(study, {*itertools.chain(*asked, *scale)}))
    found = [Contrast(sides, _pairs(values, sides), math.nan, "") for sides in [*asked, *scale]]
    open_to_test = True
    for index, contrast in enumerate(found[: len(asked)]):
        own = contrast.of(across.METRIC).to_numpy()
        open_to_test = open_to_test and inference.smallest_p(len(own)) < inference.ALPHA
        p = float(inference.sign_flip(own)) if open_to_test else math.nan
        open_to_test = p < inference.ALPHA  # False from the first that was not rejected on
        found[index] = replace(contrast, p=p, said=inference.words_alone(own, p))
    return found


def _recorded(side: str, recorded: Mapping[Any, str]) -> str:
    if (key := _spelt(side)) not in recorded:
        raise AnalysisError(f"no runs at staleness={side}; there are {', '.join(sorted(recorded.values()))}")
    return recorded[key]


def _of(study: Study, sides: Collection[str]) -> Study:
    """The runs at these values of `staleness`."""
    return study.keep(study.used[study.used["run"].map(_ages(study)).isin(sides)])


def _ages(study: Study) -> dict[str, str]:
    """The value of `staleness` of every run that is used."""
    rows = study.used.to_dict("records")
    return {run["run"]: str(series.settings_of(run).get("ages", run["staleness"])) for run in rows}


def _spelt(text: str) -> tuple[str | float, ...]:
    """A value of `staleness`, however it is spelt: `.5` is 0.5, and `by_length:0:128` has the ages of `uniform`."""
    words = text.split(":")
    if words[:2] == ["by_length", "uniform"]:
        words.pop(1)
    return tuple(float(word) if _NUMBER.fullmatch(word) else word for word in words)


def _per_seed(study: Study) -> pd.DataFrame:
    """What every run reached, in long rows `metric algorithm ages seed value`."""
    _check_alike(study.used.to_dict("records"))
    runs = across.reached(study)
    if across.METRIC not in runs:
        raise MissingData(f"needs evaluations with {across.METRIC}")
    ages = _ages(study)
    for (name, value), group in study.used.groupby(["algorithm", study.used["run"].map(ages)]):
        across.one_setting(group, f"{name} at staleness={value}")
    runs["ages"] = runs["run"].map(ages)
    metrics = [across.METRIC, "end", *scores.other_decodings(study, across.METRIC)]
    return runs.melt(["algorithm", "ages", "seed"], metrics, var_name="metric").dropna(subset=["value"])


def _check_alike(used: Sequence[Mapping[Any, Any]]) -> None:
    """Refuses a method whose runs of one seed differ in more than their ages. used: rows of the run table."""
    first: dict[tuple[str, int], Mapping[Any, Any]] = {}
    for run in used:
        before = first.setdefault((run["algorithm"], run["seed"]), run)
        other = sorted(series.differing([before, run]) - {"ages"})
        if other:
            raise AnalysisError(
                f"{run['run']}: differs from another run of {run['algorithm']} in {', '.join(other)}, not in its ages "
                "alone; choose with --where"
            )


def _pairs(values: pd.DataFrame, sides: Sides) -> pd.DataFrame:
    for side in sides:
        lacking = sorted(set(values["algorithm"]) - set(values.loc[values["ages"] == side, "algorithm"]))
        if lacking:
            raise AnalysisError(
                f"no runs of {', '.join(lacking)} at staleness={side}; leave out with --where algorithm=…"
            )
    keys = ["metric", "algorithm", "seed"]
    a, b = (values[values["ages"] == side].set_index(keys)["value"] for side in sides)
    pairs = statistics.differences(a, b).rename("value").reset_index()
    methods = pairs["algorithm"].nunique()
    complete = pairs.groupby(["metric", "seed"])["algorithm"].transform("size") == methods
    pairs = pairs[complete]  # the seeds that every method has at both sides
    if across.METRIC not in set(pairs["metric"]):
        raise AnalysisError(f"staleness={sides[0]} and staleness={sides[1]}: no seed that every method has at both")
    means = pairs.groupby(["metric", "seed"], sort=False)["value"].mean().reset_index().assign(algorithm=ALL)
    return pd.concat([pairs, means], ignore_index=True)


def table(study: Study, found: Sequence[Contrast]) -> Table:
    """Every contrast, of the mean over the methods and of each.

    study: the runs. found: of `contrasts`.
    """
    study = _of(study, {*itertools.chain.from_iterable(contrast.sides for contrast in found)})
    metrics = list(found[0].pairs["metric"].unique())
    lines = []
    for contrast in found:
        single = len(contrast.methods) == 1
        for method in [ALL] if single else [ALL, *contrast.methods]:
            own = [contrast.of(name, method).to_numpy() for name in metrics]
            label = ALL if method == ALL and not single else style.look(contrast.methods[0] if single else method).label
            said = [_p(contrast), contrast.said] if method == ALL and contrast.said else ["–", "–"]
            lines.append([contrast.name, label, len(own[0]), *map(statistics.estimate, own),
                          inference.detectable_in(own[0]), *said])  # fmt: skip
    left_out = [name for name in scores.other_decodings(study, across.METRIC) if name not in metrics]
    seeds = set(study.used["seed"])
    absent = {c.name: sorted(seeds - set(c.of(across.METRIC).index)) for c in found}
    lacking = [f"{name}: {', '.join(map(str, left))}" for name, left in absent.items() if left]
    shown = ["area" if name == across.METRIC else "last" if name == "end" else f"area, {name}" for name in metrics]
    caption = (
        f"Paired differences by seed on {scores.reported_split(study)}, with 95 % t intervals: area under the curve of "
        f"{across.METRIC}, its last evaluation, and the other accuracies. p: exact sign-flip test of the area, each "
        "contrast at .05 in the order shown and none after the first that is not rejected. detectable: the smallest "
        "true difference in area that a t test finds with 90 % power. the same: the interval lies within "
        f"±{inference.MARGIN:g}. {across.carried_forward(across.reached(study))}"
        f"{' Not recorded by every method: ' + ', '.join(left_out) + '.' if left_out else ''}"
        f"{' Seeds that lack a run: ' + '; '.join(lacking) + '.' if lacking else ''}"
    )
    return Table(["contrast", "method", "n", *shown, "detectable", "p", "said"], lines, caption)


def _p(contrast: Contrast) -> str:
    return "not tested" if math.isnan(contrast.p) else f"{contrast.p:.3g}"
