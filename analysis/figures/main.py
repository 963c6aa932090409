"""The three figures every sweep gets: accuracy and masking along a run, and where staleness leaves each method."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import scores, style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

MOST_IN_ONE_PANEL = 6  # series; with more, a panel a staleness


def accuracy_vs_updates(study: Study) -> Drawing:
    """Accuracy against updates: a colour an algorithm, a dash a staleness, thin lines for seeds."""
    study, missing = selection.reference(study)
    rows = selection.over_seeds(study, selection.evaluated(study))
    return _curves(rows, f"accuracy ({scores.reported_split(study)})", "Accuracy along the run.", missing)


def masked_fraction_vs_updates(study: Study) -> Drawing:
    """Share of tokens the rule acts on, against updates, on a log scale."""
    study, missing = selection.reference(study)
    rows = selection.over_seeds(study, acting_fraction(study))
    caption = "Share of valid tokens that are masked; for methods that never mask, whose weight is changed."
    return _curves(rows, "masked (or clipped) fraction", caption, missing, log=True)


def curve_of(name: str):
    """A figure of any metric of metrics.jsonl against updates, as a function of a study."""

    def drawn(study: Study) -> Drawing:
        study, missing = selection.reference(study)
        return _curves(selection.over_seeds(study, selection.windowed(study, name)), name, f"{name}.", missing)

    return drawn


def acting_fraction(study: Study) -> pd.DataFrame:
    """masked_fraction, or clip_fraction for a method that masked nothing in any of its runs: `run update value`."""
    masked = selection.windowed(study, "masked_fraction")
    if "clip_fraction" not in study.updates.columns:
        return masked
    algorithm = study.used.set_index("run")["algorithm"]
    whose = masked["run"].astype(str).map(algorithm)
    most = masked["value"].groupby(whose).max()
    never = set(most.index[most == 0])
    clipped = selection.windowed(study, "clip_fraction")
    clipped = clipped[clipped["run"].astype(str).map(algorithm).isin(never)]
    return pd.concat([masked[~whose.isin(never)], clipped], ignore_index=True)


def _curves(rows: pd.DataFrame, quantity: str, caption: str, missing: list[str], log: bool = False) -> Drawing:
    centres = rows[rows["kind"] == "centre"]
    series = centres[["algorithm", "staleness"]].drop_duplicates()
    if series.empty:
        raise MissingData("no run has a value")
    staleness = sorted(series["staleness"].unique())
    panels = [staleness] if len(series) <= MOST_IN_ONE_PANEL else [[s] for s in staleness]
    rows_of_panels = -(-len(panels) // 2)
    figure, axes = common.canvas(
        2, 3.2 if rows_of_panels == 1 else 2.4 * rows_of_panels, len(panels), rows_of_panels, sharey=True
    )
    # a panel already says which staleness it shows
    dash = style.dashes(staleness) if len(panels) == 1 else dict.fromkeys(staleness, "-")
    handles: dict[str, Any] = {}
    for ax, shown in zip(axes, panels, strict=True):
        for algorithm in reversed(style.order(series["algorithm"])):
            look = style.look(algorithm)
            for s in shown:
                part = rows[(rows["algorithm"] == algorithm) & (rows["staleness"] == s)]
                if len(part):
                    name = style.label(algorithm, s if len(panels) == 1 else None)
                    handles[name] = common.draw_series(
                        ax, part, look.colour, dash[s], width=look.width, marker=look.marker, label=name
                    )
        common.thin_updates(ax)
        if len(panels) > 1:
            ax.set_title("on-policy (s = 0)" if shown == [0] else f"s = {shown[0]}")
    if log:
        common.fraction_scale(axes[0], rows["value"])
    elif quantity.startswith("accuracy"):
        common.accuracy_scale(axes)
    figure.supylabel(quantity, fontsize=8)
    names = [style.look(algorithm).label for algorithm in style.order(series["algorithm"])]
    ordered = sorted(handles.values(), key=lambda h: (names.index(h.get_label().split(", ")[0]), h.get_label()))
    caption = f"{caption} {common.sampling_words(selection.counts(rows))}"
    return common.finish(figure, rows, caption, missing, ordered)


def final_accuracy_vs_staleness(study: Study) -> Drawing:
    """The last evaluation against staleness, an estimate and its seeds for each algorithm."""
    study, missing = selection.reference(study)
    runs = scores.per_run(study, common.metric())
    table = scores.summarise(runs, "final")
    if table["staleness"].nunique() < 2:
        raise MissingData("needs runs at several staleness values")
    figure, (ax,) = common.canvas(2, 3.4)
    handles = _against_staleness(ax, table, runs, "final")
    ax.set_ylabel(f"final accuracy ({scores.reported_split(study)})")
    caption = f"The last evaluation. {common.sampling_words(table['n'])}"
    return common.finish(figure, table, caption, missing, handles)


def _against_staleness(ax, table: pd.DataFrame, runs: pd.DataFrame, value: str) -> list:
    handles = []
    ticks = sorted(table["staleness"].unique())
    first = min((s for s in ticks if s > 0), default=1)
    algorithms = style.order(table["algorithm"])
    for index, algorithm in enumerate(algorithms):
        look = style.look(algorithm)
        part = table[table["algorithm"] == algorithm].sort_values("staleness")
        x = common.side_by_side(part["staleness"], index, len(algorithms), first)
        single = runs[runs["algorithm"] == algorithm]
        seeds = common.side_by_side(single["staleness"], index, len(algorithms), first), single[value]
        handles.append(common.draw_estimates(ax, x, part, look, seeds))
    common.staleness_axis(ax, ticks)
    return handles
