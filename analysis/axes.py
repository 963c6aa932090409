"""What a study varies: its axes, and one outcome along any of them. Any key of the configuration can be an axis."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pandas as pd

from analysis import scores, series
from analysis.errors import MissingData
from analysis.statistics import estimate
from analysis.study import Study

METHOD, STALENESS = "algorithm", "staleness"


def axes(study: Study, chosen: Sequence[str] = ()) -> list[str]:
    """What differs between the runs that count, seeds aside: `algorithm` and `staleness` first, then keys by name.

    A key is an axis if runs of one method and staleness differ in it; what was chosen for each (as tuning does) is
    none. Of keys that change together (ε on both sides) only the first is named.

    chosen: columns or keys that are taken already; neither they nor what goes together with one of them is named.
    Raises AnalysisError for an unknown one.
    """
    used = study.used
    found = [name for name in (METHOD, STALENESS) if used[name].nunique() > 1 and name not in chosen]
    settings = pd.DataFrame([series.settings_of(run) for run in used.to_dict("records")], index=used.index)
    settings = settings.map(_text)
    inside = settings.groupby([used[METHOD], used[STALENESS]]).nunique().max()
    seen = {_pattern(study.column(name)[study.runs["used"]].map(_text)) for name in chosen}
    for key in sorted(settings.columns[inside > 1]):
        together = _pattern(settings[key])
        if together not in seen:
            seen.add(together)
            found.append(key)
    return found


def of_sweep(study: Study) -> list[str]:
    """The axes that a report follows: method and staleness where most runs stand at one setting, else all there are."""
    names, used = axes(study), study.used
    main = [name for name in names if name in (METHOD, STALENESS)]
    return main if main and used["reference"].mean() > 0.5 else names


def _pattern(values: pd.Series) -> tuple[int, ...]:
    """Which runs share a value, the same for two columns that change together."""
    return tuple(pd.factorize(values)[0].tolist())


def along(study: Study, names: Sequence[str], metric: str, outcome: str = scores.RANKED_BY) -> pd.DataFrame:
    """One outcome of every run beside its place on some axes.

    names: columns of the run table or keys of the configuration. metric: the accuracy. outcome: a column of
    `scores.per_run`. Returns `run seed value` and a column a name.
    Raises AnalysisError for an unknown name.
    """
    runs = scores.per_run(study, metric)
    found = runs[["run", "seed"]].assign(value=runs[outcome])
    for name in names:
        values = study.column(name)
        told = ["–" if value is None else value for value in values]  # a key that only some of the runs have
        found[name] = found["run"].map(dict(zip(study.runs["run"], told, strict=True)))
    return found


def numbers(values: pd.Series) -> pd.Series | None:
    """The values as numbers, if all of them are."""
    found = pd.to_numeric(values, errors="coerce")
    return None if found.isna().any() or values.map(lambda v: isinstance(v, bool)).any() else found


def chosen(study: Study, x: str = "", hue: str = "", group: str = "") -> tuple[str, str, str, list[str]]:
    """Which axis is drawn how.

    x, hue, group: "" to choose: x is the numeric axis with most values, hue and group the first of the others.
    Returns the three ("" where there is none), and the axes that are left.
    Raises MissingData where nothing varies along which an outcome could be drawn.
    """
    left = axes(study, [name for name in (x, hue, group) if name])
    if not x:
        numeric = [name for name in left if numbers(study.used[[]].assign(v=study.column(name))["v"]) is not None]
        if not numeric:
            raise MissingData("needs runs that differ in a number (staleness, learner.lr …)")
        x = max(numeric, key=lambda name: study.column(name)[study.runs["used"]].nunique())
        left.remove(x)
    hue = hue or (left.pop(0) if left else "")
    group = group or (left.pop(0) if left and not group else "")
    return x, hue, group, [name for name in left if name not in (hue, group)]


def words(names: Sequence[str], values: Sequence[object]) -> str:
    """A place on some axes: "M2PO, s = 64, learner.lr = 1e-05"."""
    parts = []
    for name, value in zip(names, values, strict=True):
        text = f"{value:g}" if isinstance(value, float) else str(value)
        parts.append(text if name == METHOD else f"{'s' if name == STALENESS else name} = {text}")
    return ", ".join(parts)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def table(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Estimates over seeds at every place: a row a combination of values, columns value, low, high, n."""
    parts = [
        dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))
        | vars(estimate(part["value"].to_numpy()))
        for key, part in rows.groupby(list(names), dropna=False, sort=True)
    ]
    return pd.DataFrame(parts, columns=[*names, "value", "low", "high", "n"])
