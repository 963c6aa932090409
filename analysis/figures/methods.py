"""Methods on the same stale data: each beside GRPO, on each base policy, and their paired differences."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
from matplotlib.lines import Line2D

from analysis import inference, scores, style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

BASELINE = "grpo"
AT_LEAST = 6  # methods; with fewer, accuracy_vs_updates shows them in one panel
BASE = "model.path"  # of the policy that a run starts from
SHAPES = "ovDs^P"  # of points, one a base policy


def stabilisers(study: Study) -> Drawing:
    """Accuracy against updates at the largest staleness, a panel a method, GRPO as a wide grey line in each."""
    study, missing = selection.reference(study)
    rows = selection.over_seeds(study, selection.evaluated(study))
    stalest = selection.stalest(study)
    rows = rows[rows["staleness"] == stalest]
    methods = [name for name in style.order(rows["algorithm"]) if name != BASELINE]
    if len(methods) < AT_LEAST:
        raise MissingData(f"needs runs of at least {AT_LEAST} methods beside GRPO at one staleness")
    figure, axes = common.canvas(2, 1.5, len(methods), rows=-(-len(methods) // 4), sharex=True, sharey=True)
    figure.set_size_inches(style.PAGE, 1.3 * -(-len(methods) // 4) + 0.5)
    for index, (ax, method) in enumerate(zip(axes, methods, strict=True)):
        common.draw_series(ax, rows[rows["algorithm"] == BASELINE], "#c4c4c4", "-", width=3.2)
        look = style.look(method)
        common.draw_series(ax, rows[rows["algorithm"] == method], look.colour, "-")
        ax.set_title(look.label, fontsize=7.5, loc="left", pad=2)
        common.thin_updates(ax)
        if index < len(methods) - 4:
            ax.set_xlabel("")  # the bottom row says it for its column
    common.accuracy_scale(axes[:1])  # shared
    figure.supylabel(f"accuracy ({scores.reported_split(study)})", fontsize=8)
    caption = (
        f"Each method (in colour) beside GRPO (grey), s = {stalest}, against updates. "
        f"{common.sampling_words(selection.counts(rows))}"
    )
    return common.finish(figure, rows, caption, missing)


def accuracy_by_base(study: Study) -> Drawing:
    """Accuracy against updates at the largest staleness: a column a base policy, sampled above and greedy below."""
    part, missing = _stalest(study)
    bases = _bases(part)
    names = sorted(set(bases))
    if len(names) < 2:
        raise MissingData(f"needs runs from several base policies ({BASE})")
    metrics = _shown(part)
    figure, axes = common.canvas(
        2, 0.9 + 1.6 * len(metrics), len(names) * len(metrics), rows=len(metrics), sharex=True, sharey=True
    )
    handles, drawn = {}, []
    for row, metric in enumerate(metrics):
        for column, name in enumerate(names):
            ax = axes[row * len(names) + column]
            own = part.keep(part.runs[bases == name])
            rows = selection.over_seeds(own, selection.evaluated(own, metric))
            for algorithm in reversed(style.order(rows["algorithm"])):
                look = style.look(algorithm)
                series = rows[rows["algorithm"] == algorithm]
                handles[algorithm] = common.draw_series(
                    ax, series, look.colour, "-", width=look.width, marker=look.marker, label=look.label
                )
            common.thin_updates(ax)
            if row == 0:
                ax.set_title(f"base policy {Path(name).name}", fontsize=8, loc="left")
            if row < len(metrics) - 1:
                ax.set_xlabel("")  # the bottom row says it for its column
            drawn.append(rows.assign(metric=metric, base=name))
        axes[row * len(names)].set_ylabel(metric.replace("_", " "))
    table = pd.concat(drawn, ignore_index=True)
    caption = (
        f"Accuracy ({scores.reported_split(part)}) on data {_age(part)} updates old, a column a base policy. "
        f"{common.sampling_words(selection.counts(table))}"
    )
    common.accuracy_scale(axes[:1])  # shared
    ordered = [handles[name] for name in style.order(table["algorithm"])]
    return common.finish(figure, table, caption, missing, ordered)


def difference_by_method(study: Study) -> Drawing:
    """Paired difference in the ranking outcome to GRPO at the largest staleness, a row a method."""
    part, missing = _stalest(study)
    metrics, bases = _shown(part), _bases(part)
    whose = dict(zip(part.runs["seed"], bases, strict=True))
    table = pd.concat([selection.differences(part, name, BASELINE).assign(metric=name) for name in metrics])
    table["base"] = table["seed"].map(whose)
    means = table[(table["kind"] == "centre") & (table["metric"] == metrics[0])].set_index("algorithm")["value"]
    methods = list(means.sort_values(ascending=False).index)
    shapes = dict(zip(sorted(set(bases)), itertools.cycle(SHAPES)))
    figure, axes = common.canvas(2, 0.9 + 0.27 * len(methods), len(metrics), rows=1, sharey=True)
    for ax, metric in zip(axes, metrics, strict=True):
        common.difference_scale(ax, inference.MARGIN, table["value"], style.look(BASELINE).colour)
        for place, method in enumerate(methods):
            look, rows = style.look(method), table[(table["metric"] == metric) & (table["algorithm"] == method)]
            for index, (base, shape) in enumerate(shapes.items()):
                seeds = rows[(rows["kind"] == "seed") & (rows["base"] == base)]["value"]
                at = [place + 0.12 * (index - (len(shapes) - 1) / 2)] * len(seeds)
                ax.plot(seeds, at, shape, color=look.colour, alpha=0.45, markersize=2.8)
            centre = rows[rows["kind"] == "centre"]
            ax.hlines([place] * len(centre), centre["low"], centre["high"], color="black", linewidth=1.1, zorder=3)
            ax.plot(centre["value"], [place] * len(centre), "|", color="black", markersize=9, zorder=4)
        ax.set_xlabel(metric.replace("_", " "))
    axes[0].set_yticks(range(len(methods)), [style.look(method).label for method in methods])
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    handles = [
        Line2D(
            [], [], color="#777777", marker=shape, linestyle="", markersize=4, label=f"base policy {Path(base).name}"
        )
        for base, shape in shapes.items()
    ]
    caption = (
        f"{scores.OUTCOMES[scores.RANKED_BY].capitalize()} minus {style.look(BASELINE).label}'s, s = {_age(part)}; "
        f"pairs share seed and prompts. Grey: ±{inference.MARGIN:g}, the margin of equivalence, within which the axis "
        "is linear; beyond it is logarithmic. "
        f"{common.sampling_words(table.loc[table['kind'] == 'centre', 'n'])}"
    )
    caption = caption.replace("seeds;", "pairs;")
    return common.finish(figure, table, caption, missing, handles if len(shapes) > 1 else ())


def _stalest(study: Study) -> tuple[Study, list[str]]:
    """The runs at the largest staleness, at the reference setting, and words on what is left out."""
    shown, missing = selection.reference(study)
    if shown.used["algorithm"].nunique() < 2:
        raise MissingData("needs runs of several methods")
    return shown.keep(shown.runs[shown.runs["staleness"] == selection.stalest(shown)]), missing


def _bases(part: Study) -> pd.Series:
    """The policy that each run starts from."""
    return part.column(BASE).map(str)


def _age(part: Study) -> int:
    return int(part.used["staleness"].iloc[0])


def _shown(part: Study) -> list[str]:
    """The accuracy that is asked for, and greedy accuracy beside it where it was recorded."""
    return list(dict.fromkeys([common.metric(), *scores.recorded(part, ["greedy_accuracy"])]))
