"""Figures across settings: the M2 threshold (F8 and a heatmap) and the learning rate."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from analysis import scores, series, statistics, style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

THRESHOLD = "algo.m2_threshold"


def config_value(runs: pd.DataFrame, key: str) -> pd.Series:
    """A key of the runs' configurations as numbers, NaN where it is absent or no number.

    runs: rows of the run table. key: dotted.
    """
    values = [json.loads(config).get(key) for config in runs["config"]]
    return pd.Series(pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(), index=runs.index)


def with_value(study: Study, key: str) -> pd.DataFrame:
    """The scores of all runs with one key of their configuration as a column.

    key: dotted; also the column's name.
    """
    runs = scores.per_run(study, common.metric())
    values = config_value(study.used, key).set_axis(study.used["run"])
    return runs.assign(**{key: runs["run"].map(values)})


def only_differs(study: Study, key: str, algorithm: str | None = None) -> Study:
    """The runs that differ from their method's reference in one key alone, or not at all.

    key: dotted. algorithm: only this method's (default: all).
    """
    used = study.used if algorithm is None else study.used[study.used["algorithm"] == algorithm]
    rest = pd.Series([_settings_without(key, run) for run in used.to_dict("records")], index=used.index)
    expected = dict(zip(used.loc[used["reference"], "algorithm"], rest[used["reference"]], strict=True))
    same = [own == expected.get(name) for own, name in zip(rest, used["algorithm"], strict=True)]
    return study.keep(used[np.array(same, dtype=bool)])


def _settings_without(key: str, run: dict) -> str:
    return json.dumps({k: v for k, v in series.settings_of(run).items() if k != key}, sort_keys=True)


def accuracy_by_threshold(study: Study) -> Drawing:
    """Best accuracy against the M2 threshold at the largest staleness, a line a base model."""
    parts, missing = [], []
    models = sorted(study.used["model"].unique())
    for model in models:
        runs = _threshold_runs(study.keep(study.runs[study.runs["model"] == model]))
        if runs.empty:
            continue
        staleness = int(runs["staleness"].max())
        runs = runs[runs["staleness"] == staleness]
        for tau, group in runs.groupby(THRESHOLD):
            parts.append(
                {"model": model, "staleness": staleness, "threshold": tau}
                | vars(statistics.estimate(group["best"].to_numpy()))
                | {"collapsed": int(group["collapse"].notna().sum())}
            )
    if not parts:
        raise MissingData("needs runs of m2po")
    table = pd.DataFrame(parts)
    if table["threshold"].nunique() < 2:
        raise MissingData(f"needs runs of m2po at several {THRESHOLD}")
    if table["model"].nunique() < 2:
        missing.append("a second base model")
    figure, (ax,) = common.canvas(1, 3.0)
    shade, marker = style.shades(range(len(models))), "os^Dv"
    for index, (model, part) in enumerate(table.groupby("model")):
        ax.plot(part["threshold"], part["value"], color=shade[index], marker=marker[index % 5], label=model)
        has_interval = part["low"].notna()
        ax.vlines(
            part["threshold"][has_interval], part["low"][has_interval], part["high"][has_interval], color=shade[index]
        )
        for row in part[part["collapsed"] > 0].itertuples():
            ax.annotate(f"{row.collapsed}/{row.n} collapse", (row.threshold, row.value), xytext=(0, -11),
                        textcoords="offset points", ha="center", fontsize=6.5, color="#b00020")  # fmt: skip
    taus = sorted(table["threshold"].unique())
    if taus[0] > 0 and taus[-1] / taus[0] > 30:  # the paper's range is linear, decades are not
        ax.set_xscale("log")
        ax.set_xticks(taus, [f"{tau:g}" for tau in taus])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("M2 threshold τ")
    ax.set_ylabel(f"best accuracy ({scores.reported_split(study)})")
    ax.margins(x=0.08, y=0.15)
    text = f"M2PO at s = {', '.join(map(str, sorted(table['staleness'].unique())))} (F8); best: chosen on validation."
    handles = ax.get_legend_handles_labels()[0] if len(models) > 1 else []
    return common.finish(figure, table, f"{text} {common.sampling_words(table['n'])}", missing, handles)


def threshold_heatmap(study: Study) -> Drawing:
    """Final accuracy of M2PO over staleness × threshold."""
    one, missing = selection.one_model(study)
    runs = _threshold_runs(one)
    if runs.empty:
        raise MissingData("needs runs of m2po")
    if runs[THRESHOLD].nunique() < 2 or runs["staleness"].nunique() < 2:
        raise MissingData(f"needs m2po runs at several staleness values and several {THRESHOLD}")
    rows = [
        {"staleness": s, "threshold": t} | vars(statistics.estimate(group["final"].to_numpy()))
        for (s, t), group in runs.groupby(["staleness", THRESHOLD])
    ]
    table = pd.DataFrame(rows)
    grid = table.pivot(index="threshold", columns="staleness", values="value").sort_index(ascending=False)
    n = table.pivot(index="threshold", columns="staleness", values="n").reindex_like(grid)
    if grid.isna().to_numpy().any():
        missing.append(f"{int(grid.isna().to_numpy().sum())} empty cells")
    figure, (ax,) = common.canvas(1, 3.0)
    image = ax.imshow(grid, cmap="viridis", aspect="auto")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (row, column), value in np.ndenumerate(grid.to_numpy()):
        if np.isfinite(value):
            ax.text(column, row, f"{value:.3f}\nn = {int(n.to_numpy()[row, column])}", ha="center", va="center",
                    fontsize=6.5, color="white" if value < middle else "black")  # fmt: skip
    ax.set_xticks(range(grid.shape[1]), [str(s) for s in grid.columns])
    ax.set_yticks(range(grid.shape[0]), [f"{t:g}" for t in grid.index])
    ax.set_xlabel("staleness s (updates)")
    ax.set_ylabel("M2 threshold τ")
    ax.grid(visible=False)
    figure.colorbar(image, ax=ax, label=f"final accuracy ({scores.reported_split(one)})")
    return common.finish(figure, table, "M2PO; the last evaluation, mean over seeds.", missing)


def final_accuracy_vs_learning_rate(study: Study) -> Drawing:
    """Final accuracy against the learning rate, a line a method, where most methods were tried."""
    one, missing = selection.one_model(study)
    one = only_differs(one, "learner.lr")
    runs = with_value(one, "learner.lr")
    runs = runs[runs["learner.lr"].notna()]
    several = runs.groupby(["algorithm", "staleness"])["learner.lr"].nunique()
    several = several[several > 1]
    if several.empty:
        raise MissingData("needs runs at several learner.lr")
    methods = several.reset_index().groupby("staleness").size()
    staleness = int(max(methods.index[methods == methods.max()]))  # where most methods were tried
    shown = [name for name, s in several.index if s == staleness]
    runs = runs[(runs["staleness"] == staleness) & runs["algorithm"].isin(shown)]
    rows = [
        {"algorithm": a, "staleness": staleness, "learning_rate": lr}
        | vars(statistics.estimate(group["final"].to_numpy()))
        for (a, lr), group in runs.groupby(["algorithm", "learner.lr"])
    ]
    table = pd.DataFrame(rows)
    figure, (ax,) = common.canvas(1, 3.0)
    handles = []
    for index, algorithm in enumerate(style.order(shown)):
        look, part = style.look(algorithm), table[table["algorithm"] == algorithm]
        shift = 1 + 0.02 * index
        single = runs[runs["algorithm"] == algorithm]
        seeds = single["learner.lr"] * shift, single["final"]
        handles.append(common.draw_estimates(ax, part["learning_rate"] * shift, part, look, seeds))
    ax.set_xscale("log")
    rates = sorted(table["learning_rate"].unique())
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()
    ax.set_xlabel("learning rate")
    ax.set_ylabel(f"final accuracy ({scores.reported_split(one)})")
    caption = f"The last evaluation at s = {staleness}. {common.sampling_words(table['n'])}"
    return common.finish(figure, table, caption, missing, handles)


def _threshold_runs(study: Study) -> pd.DataFrame:
    """Scores of M2PO's runs that differ in the threshold alone."""
    if "m2po" not in set(study.used["algorithm"]):
        return pd.DataFrame()
    runs = with_value(only_differs(study, THRESHOLD, "m2po"), THRESHOLD)
    return runs[runs[THRESHOLD].notna()]
