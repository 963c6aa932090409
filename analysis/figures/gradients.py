"""What other methods would have done with the same data, and how much of the true gradient stale data keep."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from analysis import style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

AGREEMENT = re.compile(r"shadow/(.+)/agreement")
FIDELITY = {
    "fidelity/cosine": "cosine with a fresh gradient",
    "fidelity/norm_ratio": "norm ÷ norm of a fresh gradient",
}


def shadow_agreement(study: Study) -> Drawing:
    """Agreement of every method with the one that trains: methods by staleness, a panel a trainer."""
    one, missing = selection.one_model(study)
    asked = {match[1]: name for name in map(str, one.updates) if (match := AGREEMENT.fullmatch(name))}
    if not asked:
        raise MissingData("needs runs with record.shadow")
    means = _means(one, list(asked.values())).rename(columns={column: name for name, column in asked.items()})
    table = means.groupby(["algorithm", "staleness"])[list(asked)].mean()
    trained = style.order(table.index.get_level_values("algorithm").unique())
    figure, axes = common.canvas(2, 0.9 + 0.15 * len(asked), len(trained), rows=1, sharey=True)
    names = [name for name in style.order(asked) if name in asked]
    for ax, algorithm in zip(axes, trained, strict=True):
        grid = table.loc[algorithm][names].T
        image = ax.imshow(grid, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        for (row, column), value in np.ndenumerate(grid.to_numpy()):
            if np.isfinite(value):
                dark = abs(value) > 0.7
                ax.text(column, row, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=5.6,
                        color="white" if dark else "black")  # fmt: skip
        ax.set_xticks(range(grid.shape[1]), [str(s) for s in grid.columns])
        ax.set_yticks(range(len(names)), [style.look(name).label for name in names], fontsize=6.2)
        ax.set_title(f"{style.look(algorithm).label} trains")
        ax.set_xlabel("staleness s (updates)")
        ax.grid(visible=False)
    figure.colorbar(image, ax=axes[-1], label="agreement")
    caption = (
        "Cosine of the coefficients (w·A + c)/D that a method would have given the tokens with those of the method "
        f"that trains, mean over the second half of the run. {_counted(means)}"
    )
    data = table.reset_index().melt(["algorithm", "staleness"], var_name="asked", value_name="agreement")
    return common.finish(figure, data, caption, missing)


def fidelity_vs_staleness(study: Study) -> Drawing:
    """How a method's stale gradient compares with that of fresh rollouts, against staleness."""
    one, missing = selection.one_model(study)
    if "fidelity/cosine" not in one.updates or one.updates["fidelity/cosine"].isna().all():
        raise MissingData("needs runs with record.fidelity")
    means = _means(one, [*FIDELITY, "fidelity/ceiling"])
    table = means.groupby(["algorithm", "staleness"])[[*FIDELITY, "fidelity/ceiling"]].mean().reset_index()
    figure, axes = common.canvas(2, 3.0, len(FIDELITY))
    handles = {}
    for ax, (column, title) in zip(axes, FIDELITY.items(), strict=True):
        for algorithm in reversed(style.order(table["algorithm"])):
            look = style.look(algorithm)
            part = table[table["algorithm"] == algorithm].sort_values("staleness")
            (line,) = ax.plot(part["staleness"], part[column], color=look.colour, marker=look.marker,
                              markersize=4, linewidth=look.width * 0.8, label=look.label)  # fmt: skip
            single = means[means["algorithm"] == algorithm]
            ax.plot(single["staleness"], single[column], ".", color=look.colour, alpha=0.4, markersize=3)
            handles[look.label] = line
            if column == "fidelity/cosine":
                ax.plot(part["staleness"], part["fidelity/ceiling"], color=look.colour, linestyle=":", linewidth=1.0)
        ax.set_title(title)
        common.staleness_axis(ax, table["staleness"])
    caption = (
        "The method's gradient on its stale mini-batch against two gradients of fresh rollouts of the same prompts, "
        "means over the second half of the run (points: runs). Dotted: the cosine of the two fresh gradients with each "
        f"other, which is what noise leaves. {_counted(means)}"
    )
    return common.finish(figure, table, caption, missing, list(reversed(handles.values())))


def _means(study: Study, columns: list[str]) -> pd.DataFrame:
    """The runs with the means of metrics over their second half."""
    rows = study.updates
    half = rows.groupby("run", observed=True)["update"].transform("max") / 2
    there = [column for column in columns if column in rows]
    return study.used.merge(rows[rows["update"] > half].groupby("run", observed=True)[there].mean(), on="run")


def _counted(runs: pd.DataFrame) -> str:
    """How many runs stand behind a cell."""
    counts = runs.groupby(["algorithm", "staleness"])["run"].nunique()
    low, high = counts.min(), counts.max()
    return f"n = {low}{'' if low == high else f' to {high}'} run{'s' if high > 1 else ''} a cell."
