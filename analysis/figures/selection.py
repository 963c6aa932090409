"""Which runs a figure shows, and their points: the reference setting, windows of updates, centres over seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import scores, series, statistics, style
from analysis.errors import MissingData
from analysis.figures.common import Aside, metric
from analysis.rows import never_acted
from analysis.study import Study

WINDOWS = 80  # a per-update metric is drawn as means over about this many windows


def one_model(study: Study) -> tuple[Study, list[str]]:
    """The study of its most frequent base model, and a word on the others."""
    models = study.used["model"].value_counts()
    if len(models) < 2:
        return study, []
    main = sorted(models[models == models.max()].index)[0]
    others = ", ".join(sorted(set(models.index) - {main}))
    return study.keep(study.runs[study.runs["model"] == main]), [Aside(f"Model {main}; not shown: {others}")]


def idle(study: Study) -> list[str]:
    """A word on methods that masked or clipped no token in any of their runs at a staleness."""
    never = never_acted(study)
    groups = study.used.groupby(["algorithm", "staleness"])["run"]
    found = [style.label(str(algorithm), int(str(s))) for (algorithm, s), names in groups if names.isin(never).all()]
    return [Aside(f"Masked or clipped no token: {'; '.join(found)}")] if found else []


def reference(study: Study) -> tuple[Study, list[str]]:
    """One base model, one setting a method: what a figure that shows one curve a method may use."""
    study, notes = one_model(study)
    used = study.used
    others = int((~used["reference"]).sum())
    if others > len(used) / 2:
        raise MissingData(
            f"needs runs at one setting: {others} of {len(used)} are at others (outcome_by_axis, accuracy_by_setting)"
        )
    keep = study.runs[study.runs["reference"] & study.runs["used"]]
    if others:
        words = series.reference_words(study.runs)
        where = f"At {words}; not shown" if words else "Not shown"
        notes.append(Aside(f"{where}: {others} runs at other settings"))
    own = series.own_settings(keep)
    if own:
        notes.append(Aside(f"Each method and staleness at its own {', '.join(own)}"))
    if ages := series.age_words(keep):
        notes.append(Aside(f"Ages are distributed where {ages}"))
    absent = sorted(set(used["algorithm"]) - set(keep["algorithm"]))
    if absent:
        notes.append(f"{', '.join(absent)} at the setting that the others share")
    shown = study.keep(keep)
    return shown, notes + idle(shown)


def stalest(study: Study) -> int:
    """The largest staleness that at least half of the methods have run, else the largest there is."""
    used = study.used
    counts = used.groupby("staleness")["algorithm"].nunique()
    wide = counts[counts >= max(1, used["algorithm"].nunique() / 2)]
    top = int(max(wide.index if len(wide) else counts.index))
    if top == 0:
        raise MissingData("needs runs with staleness > 0")
    return top


def windowed(study: Study, name: str) -> pd.DataFrame:
    """A metric of metrics.jsonl as means over windows of whole steps.

    name: of the metric. Returns `run update value`, the update being the window's last.
    Raises MissingData if no run has it.
    """
    rows = study.updates
    if name not in rows.columns or not rows[name].notna().any():
        raise MissingData(f"needs {name} in metrics.jsonl")
    per_step = int(study.used["updates_per_step"].max())
    width = per_step * max(1, round(rows["update"].max() / WINDOWS / per_step))
    window = (rows["update"].to_numpy() - 1) // width
    means = rows.groupby([rows["run"], window], observed=True)[name].mean().dropna()
    curve = means.rename("value").rename_axis(["run", "window"]).reset_index()
    curve["update"] = (curve["window"] + 1) * width
    return curve[["run", "update", "value"]]


def evaluated(study: Study, name: str = "") -> pd.DataFrame:
    """The accuracy of every run at every evaluation: `run update value`. name: in eval.jsonl; "": the one shown."""
    curves = scores.accuracy_curves(study, name or metric())
    return curves.rename(columns={"accuracy": "value"})


def differences(study: Study, name: str, against: str) -> pd.DataFrame:
    """Paired differences of the ranking outcome to one method at the same staleness.

    name: of the accuracy, in eval.jsonl. against: the algorithm that is subtracted.
    Returns long rows `algorithm staleness kind`: "seed" with `seed` and value, "centre" with value, low, high and n.
    Raises MissingData where nothing can be paired.
    """
    runs = scores.per_run(study, name)
    sides: dict[Any, pd.Series] = {
        key: scores.by_seed(own, scores.RANKED_BY) for key, own in runs.groupby(["algorithm", "staleness"])
    }
    parts: list[pd.DataFrame] = []
    for (algorithm, staleness), side in sides.items():
        if algorithm == against or (against, staleness) not in sides:
            continue
        pairs = statistics.differences(side, sides[against, staleness])
        seeds = pd.DataFrame({"kind": "seed", "seed": pairs.index.get_level_values("seed"), "value": pairs.to_numpy()})
        centre = pd.DataFrame([{"kind": "centre"} | vars(statistics.estimate(pairs.to_numpy()))])
        parts += [part.assign(algorithm=algorithm, staleness=staleness) for part in (seeds, centre)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if table.empty or not table["n"].any():
        raise MissingData(f"needs runs of {against} and of another method with the same seed and staleness")
    return table[["algorithm", "staleness", "kind", "seed", "value", "low", "high", "n"]]


def over_seeds(study: Study, curve: pd.DataFrame) -> pd.DataFrame:
    """The seeds of every series and, where all of them have a value, their centre.

    curve: `run update value`.
    Returns long rows: kind "seed" (with `seed`, `repeat`), and kind "centre" with value, low, high and n.
    """
    keys = ["algorithm", "staleness", "setting"]
    identity = study.used[["run", *keys, "seed", "repeat"]]
    rows = curve.astype({"run": str}).merge(identity, on="run")
    parts = [rows.assign(kind="seed", n=1)]
    for key, group in rows.groupby(keys, sort=True):
        table = group.pivot_table(index="run", columns="update", values="value").dropna(axis=1)
        if table.empty:
            continue
        values = table.to_numpy()
        low, high = statistics.interval(values)
        centre = {"update": table.columns, "value": values.mean(axis=0), "low": low, "high": high}
        constant = dict(zip(keys, key, strict=True)) | {"kind": "centre", "n": len(table)}
        parts.append(pd.DataFrame(centre | constant))
    columns = [*keys, "kind", "seed", "repeat", "update", "value", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def counts(rows: pd.DataFrame) -> list[int]:
    """The n of every series in the rows of `over_seeds`."""
    return rows.loc[rows["kind"] == "centre", "n"].tolist()
