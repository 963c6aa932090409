"""Contrasts of distributions of ages: the paired differences, of every method and of their mean."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import across, ages, inference, scores, statistics, style
from analysis.ages import Contrast
from analysis.figures import common
from analysis.figures.common import Drawing
from analysis.study import Study


def draw(study: Study, found: Sequence[Contrast]) -> Drawing:
    """A row a contrast: points are seeds, a colour a method, a bar the interval of the mean over the methods.

    study: the runs. found: of `ages.contrasts`.
    """
    table = _rows(found)
    metrics = [name for name in (across.METRIC, across.OTHER) if name in set(table["metric"])]
    methods = [name for name in style.order(table["algorithm"]) if name != ages.ALL]
    figure, axes = common.canvas(2, 0.9 + 0.36 * len(found), len(metrics), rows=1, sharey=True)
    handles = {}
    for ax, metric in zip(axes, metrics, strict=True):
        common.difference_scale(ax, inference.MARGIN, table["value"])
        shown = table[table["metric"] == metric]
        for place, contrast in enumerate(found):
            rows = shown[shown["contrast"] == contrast.name]
            for index, method in enumerate(methods):
                look = style.look(method)
                seeds = rows.loc[(rows["algorithm"] == method) & (rows["kind"] == "seed"), "value"]
                at = [place + 0.24 * (index - (len(methods) - 1) / 2)] * len(seeds)
                (handles[method],) = ax.plot(
                    seeds, at, look.marker, color=look.colour, alpha=0.6, markersize=3, label=look.label
                )
            centre = rows[(rows["algorithm"] == ages.ALL) & (rows["kind"] == "centre")]
            ax.hlines([place] * len(centre), centre["low"], centre["high"], color="black", linewidth=1.1, zorder=3)
            ax.plot(centre["value"], [place] * len(centre), "|", color="black", markersize=9, zorder=4)
        ax.set_xlabel(metric.replace("_", " "))
    names = [c.name + ("" if c.said else "  (scale)") for c in found]
    axes[0].set_yticks(range(len(found)), names)
    axes[0].set_ylim(len(found) - 0.5, -0.5)
    caption = (
        f"Paired differences in {scores.OUTCOMES[scores.RANKED_BY]} between distributions of ages (updates). Bar: mean "
        f"over the methods; grey: ±{inference.MARGIN:g}, within which the axis is linear; beyond it is logarithmic. "
        f"{common.sampling_words(table.loc[table['kind'] == 'centre', 'n'])}"
    )
    return common.finish(figure, table, caption.replace("seeds;", "pairs;"), [], [handles[name] for name in methods])


def _rows(found: Sequence[Contrast]) -> pd.DataFrame:
    """Long rows: contrast, metric, algorithm, kind ("seed" with seed and value, "centre" with its interval and n)."""
    parts = []
    for contrast in found:
        for (metric, algorithm), seeds in contrast.pairs.groupby(["metric", "algorithm"], sort=False):
            estimate = {"metric": metric, "algorithm": algorithm} | vars(statistics.estimate(seeds["value"].to_numpy()))
            both = [seeds.assign(kind="seed"), pd.DataFrame([estimate]).assign(kind="centre")]
            parts += [part.assign(contrast=contrast.name) for part in both]
    columns = ["contrast", "metric", "algorithm", "kind", "seed", "value", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[columns]
