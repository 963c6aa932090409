"""The rows of a table: one a series, those that are one and the same run merged, rules that never acted marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import style
from analysis.series import own_settings, reference_setting
from analysis.study import Study

IDLE = "†"
_ACTS = ("masked_fraction", "clip_fraction")  # of metrics.jsonl: tokens masked, tokens whose weight the rule set


@dataclass(frozen=True)
class Rows:
    """The series of a table in the palette's order.

    columns: headings of the cells that name a series. rows: those cells, and the runs of the series.
    words: what a caption says of merged and marked rows, "" if there is none.
    """

    columns: list[str]
    rows: list[tuple[list[object], pd.DataFrame]]
    words: str


def series(study: Study, runs: pd.DataFrame, by: Sequence[str] = ("algorithm", "staleness", "setting")) -> Rows:
    """Groups the runs of a study.

    runs: rows of `scores.per_run`. by: columns that make a series; algorithm and setting among them.
    """
    several = bool((runs.groupby("algorithm", observed=True)["setting"].nunique() > 1).any())
    several |= bool(runs["setting"].astype(str).str.contains("ages=").any())
    shown = [column for column in by if column != "setting" or several]
    idle = never_acted(study)
    merged: dict[object, list[tuple[tuple, pd.DataFrame]]] = {}
    for key, group in runs.groupby(list(by), observed=True):
        merged.setdefault(_signature(group) or key, []).append((key, group))
    rows, same, marked = [], [], False
    for members in merged.values():
        members.sort(key=lambda member: _order(dict(zip(by, member[0], strict=True))))
        first, group = members[0]
        named = dict(zip(by, first, strict=True))
        labels = list(
            dict.fromkeys(style.look(str(dict(zip(by, k, strict=True))["algorithm"])).label for k, _ in members)
        )
        acted_never = all(g["run"].isin(idle).all() for _, g in members)
        marked |= acted_never
        if len(members) > 1:
            same.append(" = ".join(labels) + (f" at s = {named['staleness']}" if "staleness" in named else ""))
        named["algorithm"] = " = ".join(labels) + (f" {IDLE}" if acted_never else "")
        if "setting" in named:
            own = runs[runs["algorithm"] == first[list(by).index("algorithm")]]
            named["setting"] = named["setting"] or reference_setting(own) or "reference"
        rows.append((_order(dict(zip(by, first, strict=True))), [_plain(named[column]) for column in shown], group))
    rows.sort(key=lambda row: row[0])
    words = [f"One run under several names (the same final weights), counted once: {'; '.join(same)}."] if same else []
    own = own_settings(runs.assign(used=True))
    words += [f"Each row at its own {', '.join(own)}."] if own else []
    words += [f"{IDLE}: it masked or clipped no token in any update."] if marked else []
    words += spans(runs)
    headings = ["s" if column == "staleness" else column for column in shown]
    return Rows(headings, [(cells, group) for _, cells, group in rows], " ".join(words))


def spans(runs: pd.DataFrame) -> list[str]:
    """A sentence on the updates over which the runs were evaluated, where they are not the same.

    runs: rows of `scores.per_run`.
    """
    if "span" not in runs or runs["span"].nunique() < 2:
        return []
    parts = []
    for span, group in runs.groupby("span"):
        labels = ", ".join(style.look(name).label for name in style.order(group["algorithm"]))
        parts.append(f"{span}: {len(group)} run{'s' if len(group) > 1 else ''} of {labels}")
    return [
        f"Not all runs were evaluated over the same updates ({'; '.join(parts)}): over others an area or a last "
        "evaluation is another quantity, and such runs are not paired."
    ]


def never_acted(study: Study) -> set[str]:
    """The runs whose rule masked no token and changed no weight, where the records say."""
    there = [name for name in _ACTS if name in study.updates]
    if not there:
        return set()
    most = study.updates.groupby("run", observed=True)[there].max().max(axis=1)
    return set(most.index[most == 0].astype(str))


def same_runs(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two sides hold the same runs: the same final weights in every seed that both have."""
    keys = ["staleness", "seed"]
    both = a[[*keys, "final_weights_sha256"]].merge(b[[*keys, "final_weights_sha256"]], on=keys)
    x, y = (both[f"final_weights_sha256_{side}"].astype(str) for side in "xy")
    return len(both) > 0 and bool(((x == y) & (x != "")).all())


def _signature(group: pd.DataFrame) -> frozenset | None:
    """What two series share only if their runs are the same; None where a hash is missing."""
    hashes = group["final_weights_sha256"].astype(str)
    if (hashes == "").any():
        return None
    return frozenset(zip(group["staleness"], group["seed"], hashes, strict=True))


def _order(named: dict[str, object]) -> tuple:
    names, algorithm = list(style.LOOKS), str(named["algorithm"])
    rank = names.index(algorithm) if algorithm in names else len(names)
    return (rank, algorithm, named.get("staleness", 0), str(named.get("setting", "")))


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else value
