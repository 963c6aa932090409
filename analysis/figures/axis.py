"""One outcome along what the study varies: any column of the run table or key of the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from analysis import axes, inference, scores, series, style
from analysis.axes import METHOD, STALENESS
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.rows import spans
from analysis.study import Study
from analysis.style import Look

MOST_PANELS = 8
_MARKERS = "os^Dv<>Pph*X"
_DASHES = ("-", "--", ":", "-.")


def outcome_by_axis(study: Study) -> Drawing:
    """The ranking outcome against the axis with most values, a colour and a panel for the next ones."""
    return outcome()(study)


def outcome(x: str = "", hue: str = "", group: str = "", by: str = scores.RANKED_BY) -> Callable[[Study], Drawing]:
    """The figure of one outcome against an axis, as a function of a study.

    x, hue, group: columns of the run table or keys of the configuration, for the horizontal axis, the colours and the
    panels; "" leaves the choice. by: the outcome, a column of `scores.per_run`.
    """

    def drawn(study: Study) -> Drawing:
        if not (x or hue or group) and set(axes.of_sweep(study)) < set(axes.axes(study)):
            one, missing = selection.reference(study)
        else:
            one, missing = selection.one_model(study)
            missing = missing + selection.idle(one)
        names = axes.chosen(one, x, hue, group)
        return _draw(one, names, by, missing)

    return drawn


def _draw(study: Study, names: tuple[str, str, str, list[str]], by: str, missing: list[str]) -> Drawing:
    x, hue, group, left = names
    shown = [name for name in (x, hue, group, *left) if name]
    rows = axes.along(study, shown, common.metric(), by)
    table = axes.table(rows, shown)
    panels = _ordered(table[group]) if group else [None]
    if len(panels) > MOST_PANELS:
        raise MissingData(f"needs at most {MOST_PANELS} values of {group}; choose other axes with --x, --hue, --group")
    figure, panes = common.canvas(2, 3.3, len(panels), sharey=True)
    looks = _looks(table[hue]) if hue else {}
    places = _places(table[x])
    handles: dict[str, Any] = {}
    for ax, value in zip(panes, panels, strict=True):
        part = table if value is None else table[table[group] == value]
        for values, line in _lines(part, [*([hue] if hue else []), *left]):
            label, look, dash = _look(values, hue, left, looks, table)
            placed = line.assign(at=line[x].map(places)).sort_values("at")
            single = rows.merge(line[shown].drop_duplicates(), on=shown)
            handles[label] = common.draw_estimates(
                ax, placed["at"], placed, look, (single[x].map(places), single["value"])
            )
            handles[label].set(linestyle=dash, label=label)
        _scale(ax, x, places)
        ax.set_title("" if value is None else axes.words([group], [value]))
    common.margin_bar(panes[0], inference.MARGIN)
    panes[0].set_ylabel(f"{scores.OUTCOMES[by]}, {common.metric()} ({scores.reported_split(study)})", fontsize=7)
    caption = f"{scores.OUTCOMES[by].capitalize()} against {x}. {common.sampling_words(table['n'])}"
    caption = " ".join([caption, *spans(scores.per_run(study, common.metric()))])
    return common.finish(figure, table, caption, missing, list(handles.values()) if hue or left else [])


def _lines(table: pd.DataFrame, names: list[str]) -> list[tuple[tuple, pd.DataFrame]]:
    """The lines of a panel, in the order of their values."""
    if not names:
        return [((), table)]
    order = {name: _ordered(table[name]) for name in names}
    found = [(key, line) for key, line in table.groupby(names, dropna=False, sort=False)]
    return sorted(found, key=lambda item: [_index(order[n], v) for n, v in zip(names, item[0], strict=True)])


def _index(ordered: list[Any], value: object) -> int:
    return ordered.index(value) if value in ordered else len(ordered)


def accuracy_by_setting(study: Study) -> Drawing:
    """Accuracy along the run of every setting, a panel a method and staleness that has several."""
    one, missing = selection.one_model(study)
    rows = selection.over_seeds(one, selection.evaluated(one))
    several = rows.groupby(["algorithm", "staleness"], sort=False)["setting"].nunique()
    panels = [(a, s) for a, s in several[several > 1].index][:MOST_PANELS]
    if not panels:
        raise MissingData("needs runs of one method and staleness at several settings")
    deep = -(-len(panels) // 2)
    figure, panes = common.canvas(2, 3.2 if deep == 1 else 2.4 * deep, len(panels), deep, sharey=True)
    looks = _looks(rows[rows[["algorithm", "staleness"]].apply(tuple, axis=1).isin(panels)]["setting"])
    handles: dict[str, Any] = {}
    for ax, (algorithm, s) in zip(panes, panels, strict=True):
        part = rows[(rows["algorithm"] == algorithm) & (rows["staleness"] == s)]
        for setting in _ordered(part["setting"]):
            label = setting or series.reference_setting(one.used[one.used["algorithm"] == algorithm])
            line, look = part[part["setting"] == setting], looks[setting]
            handles[label] = common.draw_series(ax, line, look.colour, "-", marker=look.marker, label=label)
        common.thin_updates(ax)
        ax.set_title(style.label(algorithm, int(s)))
    common.accuracy_scale(panes)
    panes[0].set_ylabel(f"accuracy ({scores.reported_split(one)})")
    if len(several[several > 1]) > MOST_PANELS:
        missing.append(f"{int((several > 1).sum()) - MOST_PANELS} methods and stalenesses more")
    caption = f"Accuracy along the run, a line a setting. {common.sampling_words(selection.counts(rows))}"
    return common.finish(figure, rows, caption, missing, list(handles.values()))


def _look(
    values: Sequence[object], hue: str, left: list[str], looks: dict[object, Look], table: pd.DataFrame
) -> tuple[str, Look, str]:
    """Label, look and dash of a line: the colour says the hue, the dash the axes that are left."""
    if not values:
        return "", Look("", style.look("grpo").colour, "o"), "-"
    names = [hue, *left] if hue else left
    look = looks[values[0]] if hue else Look("", style.look("grpo").colour, "o")
    rest = tuple(values[1:] if hue else values)
    others = sorted({str(tuple(row)) for row in table[left].astype(object).to_numpy().tolist()})
    shown = [style.look(str(v)).label if name == METHOD else v for name, v in zip(names, values, strict=True)]
    return axes.words(names, shown), look, _DASHES[others.index(str(rest)) % len(_DASHES)]


def _looks(values: pd.Series) -> dict[object, Look]:
    """A colour and marker for each value: a method's own, else from dark to light."""
    ordered = _ordered(values)
    if values.name == METHOD:
        return {value: style.look(str(value)) for value in ordered}
    shades = style.shades(range(len(ordered)))
    return {v: Look(str(v), shades[i], _MARKERS[i % len(_MARKERS)]) for i, v in enumerate(ordered)}


def _ordered(values: pd.Series) -> list[Any]:
    if values.name == METHOD:
        return style.order(values)
    there = values.dropna().unique().tolist()
    return sorted(there, key=lambda v: (isinstance(v, str), v if isinstance(v, int | float) else 0, str(v)))


def _places(values: pd.Series) -> dict[object, float]:
    """Where each value lies on the axis: numbers where they are, others one after the other."""
    found = axes.numbers(values)
    ordered = _ordered(values)
    return {v: float(v) if found is not None else float(i) for i, v in enumerate(ordered)}


def _scale(ax: Axes, x: str, places: dict[object, float]) -> None:
    at = np.array(sorted(places.values()))
    if x == STALENESS:
        return common.staleness_axis(ax, [int(s) for s in at])
    if (at > 0).all() and at[-1] / at[0] >= 8 and all(isinstance(v, int | float) for v in places):
        ax.set_xscale("log")
    ax.set_xticks(list(places.values()), [f"{v:g}" if isinstance(v, int | float) else str(v) for v in places])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(x)
    return None
