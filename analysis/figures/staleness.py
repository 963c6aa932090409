"""What staleness does to the data and what it costs: diagnostics, realised staleness, updates to a target."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis import inference, scores, statistics, style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

DIAGNOSTICS = {
    "ess": "effective sample size (share)",
    "m2_before": "M2 before the mask",
    "ratio_positive_q99": "ratio r, 1 % and 99 %",
}
DASH = {"serial": "-", "overlapped": "--", "ray": ":"}


def diagnostics_vs_staleness(study: Study) -> Drawing:
    """Effective sample size, M2 and ratio quantiles against staleness, means over the second half of the run."""
    one, missing = selection.reference(study)
    if one.used["staleness"].nunique() < 2:
        raise MissingData("needs runs at several staleness values")
    there = [name for name in DIAGNOSTICS if name in one.updates and one.updates[name].notna().any()]
    if not there:
        raise MissingData(f"needs {', '.join(DIAGNOSTICS)} in metrics.jsonl")
    missing += [name for name in DIAGNOSTICS if name not in there]
    low = "ratio_positive_q01"
    drawn = [*there, low] if "ratio_positive_q99" in there and low in one.updates else there
    runs = {name: _second_half(one, name) for name in drawn}
    tables = {name: scores.summarise(values, "value") for name, values in runs.items()}
    figure, axes = common.canvas(2, 3.0, len(there))
    handles: dict[str, Line2D] = {}
    for ax, name in zip(axes, there, strict=True):
        for key in [name, low] if name == "ratio_positive_q99" and low in tables else [name]:
            handles |= _lines(ax, tables[key], runs[key])
        ax.set_title(DIAGNOSTICS[name])
        if name == "m2_before":
            common.log_scale(ax, tables[name]["value"])
        if name == "ratio_positive_q99":
            common.log_scale(ax, pd.concat([tables[key]["value"] for key in (name, low) if key in tables]))
        common.staleness_axis(ax, tables[name]["staleness"])
    table = pd.concat([part.assign(metric=name) for name, part in tables.items()], ignore_index=True)
    caption = "Means over the second half of the run; ratio quantiles of tokens with A > 0."
    caption += f" {common.sampling_words(table['n'])}"
    return common.finish(figure, table, caption, missing, list(handles.values()))


def _second_half(study: Study, name: str) -> pd.DataFrame:
    """The runs with the mean `value` of a metric over their second half."""
    rows = study.updates
    half = rows.groupby("run", observed=True)["update"].transform("max") / 2
    means = rows[rows["update"] > half].groupby("run", observed=True)[name].mean().rename("value")
    return study.used.merge(means, on="run")


def _lines(ax, table: pd.DataFrame, seeds: pd.DataFrame) -> dict:
    """Estimates of each method against staleness as a line with a band, its seeds (`value`) as points."""
    handles = {}
    for algorithm in reversed(style.order(table["algorithm"])):
        look = style.look(algorithm)
        part = table[table["algorithm"] == algorithm].sort_values("staleness")
        (line,) = ax.plot(part["staleness"], part["value"], color=look.colour, marker=look.marker, markersize=3.5,
                          linewidth=look.width * 0.8, label=look.label)  # fmt: skip
        banded = part[part["low"].notna()]
        ax.fill_between(banded["staleness"], banded["low"], banded["high"], color=look.colour, alpha=0.15, linewidth=0)
        single = seeds[seeds["algorithm"] == algorithm]
        ax.plot(single["staleness"], single["value"], ".", color=look.colour, alpha=0.4, markersize=3)
        handles[look.label] = line
    return dict(reversed(handles.items()))


def staleness_protocols(study: Study) -> Drawing:
    """Realised staleness by protocol (lag) and driver: along the run, and its range in each run."""
    one, missing = selection.one_model(study)
    if "staleness_mean" not in one.updates:
        raise MissingData("needs staleness_mean in metrics.jsonl")
    table = _realised(one)
    protocols = list(dict.fromkeys(table["protocol"]))
    if len(table["lag"].unique()) < 2:
        raise MissingData(f"needs runs of another protocol than lag={table['lag'].iloc[0]}")
    if "bounded" in set(table["lag"]) and table.loc[table["lag"] == "bounded", "driver"].nunique() < 2:
        missing.append("bounded runs of a second driver")
    figure, axes = common.canvas(2, 3.3, 2, width_ratios=[1.1, 1])
    _along_the_run(axes[0], one, table, protocols)
    _ranges(axes[1], table, protocols)
    n = table.groupby("protocol").size()
    counts = "; ".join(f"{name}: {n[name]} run{'s' if n[name] > 1 else ''}" for name in protocols)
    caption = (
        "Staleness of the tokens trained on, as measured. Left: mean of each update, a line a run (colours as on the "
        "right; dashed: overlapped, dotted: ray). Right: mean "
        f"of each run (point) and its smallest and largest token staleness (line). {counts}. An exact lag is drawn "
        "once: its drivers give the same run."
    )
    return common.finish(figure, table, caption, missing)


def _realised(study: Study) -> pd.DataFrame:
    """One row a run: protocol, and mean, min and max of the staleness of its tokens."""
    groups = study.updates.groupby("run", observed=True)
    measured = groups.agg(
        mean=("staleness_mean", "mean"), smallest=("staleness_min", "min"), largest=("staleness_max", "max")
    )
    runs = study.used.merge(measured.reset_index().astype({"run": str}), on="run")
    free = runs["lag"] != "exact"
    runs["driver"] = runs["driver"].where(free, "any driver")
    runs["protocol"] = [
        f"{lag}, s {'≤' if lag == 'bounded' else '='} {s}" + (f", {driver}" if lag != "exact" else "")
        for lag, s, driver in zip(runs["lag"], runs["staleness"], runs["driver"], strict=True)
    ]
    columns = ["protocol", "lag", "driver", "staleness", "algorithm", "seed", "repeat", "run"]
    columns += ["mean", "smallest", "largest"]
    return runs[columns].sort_values(["lag", "staleness", "driver", "run"], ignore_index=True)


def _along_the_run(ax, study: Study, table: pd.DataFrame, protocols: list[str]) -> None:
    curve = selection.windowed(study, "staleness_mean")
    curve = curve.astype({"run": str}).merge(table, on="run")
    shade = style.shades(range(len(protocols)))
    for index, name in enumerate(protocols):
        part = curve[curve["protocol"] == name]
        runs = part["run"].unique()
        if part["lag"].iloc[0] == "exact":
            runs = runs[:1]
        dash = DASH.get(part["driver"].iloc[0], "-")
        for run in runs:
            one = part[part["run"] == run]
            ax.plot(one["update"], one["value"], color=shade[index], linewidth=0.9, linestyle=dash, alpha=0.8)
    common.thin_updates(ax)
    ax.set_ylabel("mean token staleness (updates)")


def _ranges(ax, table: pd.DataFrame, protocols: list[str]) -> None:
    shade = style.shades(range(len(protocols)))
    for index, name in enumerate(protocols):
        part = table[table["protocol"] == name]
        if part["lag"].iloc[0] == "exact":
            part = part.drop_duplicates(["mean", "smallest", "largest"])
        y = index + np.linspace(-0.28, 0.28, len(part)) if len(part) > 1 else np.array([float(index)])
        ax.hlines(y, part["smallest"], part["largest"], color=shade[index], linewidth=1)
        ax.plot(part["mean"], y, "o", color=shade[index], markersize=3.5)
    ax.set_yticks(range(len(protocols)), protocols)
    ax.invert_yaxis()
    ax.set_xlabel("token staleness (updates)")
    ax.grid(axis="y", visible=False)


def accuracy_by_protocol(study: Study) -> Drawing:
    """Final accuracy under an exact lag and under a bound: against the label, and against what was realised."""
    one, missing = selection.one_model(study)
    if "staleness_mean" not in one.updates:
        raise MissingData("needs staleness_mean in metrics.jsonl")
    realised = one.updates.groupby("run", observed=True)["staleness_mean"].mean().rename("realised")
    runs = scores.per_run(one, common.metric()).merge(realised, on="run")
    both = runs.groupby("algorithm")["lag"].nunique()
    runs = runs[runs["algorithm"].isin(both[both > 1].index)]
    if runs.empty:
        raise MissingData("needs runs of one method under lag=exact and lag=bounded")
    keys = ["algorithm", "lag", "staleness"]
    rows = [
        dict(zip(keys, key, strict=True))
        | vars(statistics.estimate(group["final"].to_numpy()))
        | {"realised": group["realised"].mean()}
        for key, group in runs.groupby(keys)
    ]
    table = pd.DataFrame(rows)
    figure, axes = common.canvas(2, 3.2, 2, sharey=True)
    handles = {}
    for (algorithm, lag), part in table.groupby(["algorithm", "lag"]):
        look = style.look(str(algorithm))
        seeds = runs[(runs["algorithm"] == algorithm) & (runs["lag"] == lag)]
        exact = lag == "exact"
        for ax, x in zip(axes, ("staleness", "realised"), strict=True):
            ax.plot(seeds[x], seeds["final"], ".", color=look.colour, alpha=0.4, markersize=3)
            has_interval = part[part["low"].notna()]
            ax.vlines(has_interval[x], has_interval["low"], has_interval["high"], color=look.colour, linewidth=1.1)
            (line,) = ax.plot(
                part[x], part["value"], color=look.colour, linestyle="-" if exact else "--", marker=look.marker,
                markerfacecolor=look.colour if exact else "white", label=f"{look.label}, {lag}",
            )  # fmt: skip
            handles[line.get_label()] = line
    for ax in axes:
        common.staleness_axis(ax, table["staleness"])
    axes[0].set_xlabel("the label: exact s, or bound K (updates)")
    axes[1].set_xlabel("realised mean token staleness (updates)")
    axes[0].set_ylabel("final accuracy")
    words = common.sampling_words(table["n"]).replace("seed", "run")  # repeats of one seed are runs of their own
    caption = f"Small points: runs. {words}"
    return common.finish(figure, table, caption, missing, list(handles.values()))


def cost_of_staleness(study: Study) -> Drawing:
    """Updates to a target accuracy (restricted mean), as a multiple of on-policy GRPO's."""
    one, missing = selection.reference(study)
    target = scores.default_target(one, metric=common.metric())
    if target is None:
        raise MissingData("needs runs at staleness 0 that gained accuracy")
    if not (one.used["staleness"] > 0).any():
        raise MissingData("needs runs with staleness > 0")
    runs = scores.cost_of_staleness(one, target, common.metric())
    table = _ratios(runs)
    figure, (ax,) = common.canvas(2, 3.2)
    handles = []
    ticks = sorted(table["staleness"].unique())
    first, algorithms = min((s for s in ticks if s > 0), default=1), style.order(table["algorithm"])
    for index, algorithm in enumerate(algorithms):
        look, part = style.look(algorithm), table[table["algorithm"] == algorithm].sort_values("staleness")
        x = common.side_by_side(part["staleness"], index, len(algorithms), first)
        handles.append(common.draw_estimates(ax, x, part, look))
        censored = (part["reached"] < part["runs"]).to_numpy()
        ax.plot(x[censored], part["value"][censored], look.marker, color="white", markeredgecolor=look.colour, zorder=4)
    ax.axhline(1, color="#888888", linewidth=0.8, linestyle="--")
    ax.set_ylim(bottom=0)
    common.staleness_axis(ax, ticks)
    ax.set_ylabel(f"updates to target / on-policy {style.look(target.baseline[0]).label}")
    caption = (
        f"Target accuracy {target.accuracy:.3f} ({target.words}). Ratios pair runs of one seed. A run that never gets "
        f"there counts as {runs['horizon'].iloc[0]:.0f} updates, which every run was evaluated at (restricted mean); "
        f"hollow: cells with such runs, whose true mean is larger. {common.sampling_words(table['n'])}"
    )
    return common.finish(figure, table, caption, missing, handles)


def _ratios(runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (algorithm, staleness), group in runs.groupby(["algorithm", "staleness"]):
        rows.append(
            {"algorithm": algorithm, "staleness": staleness, "reached": int(group["reached"].sum()), "runs": len(group),
             "updates": group["updates_to_target"].mean(), "samples": group["samples_to_target"].mean()}
            | vars(statistics.estimate(group["ratio"].to_numpy(float)))
        )  # fmt: skip
    return pd.DataFrame(rows)


def difference_to_grpo(study: Study) -> Drawing:
    """Paired difference in the ranking outcome to GRPO of the same seed and staleness."""
    one, missing = selection.reference(study)
    if one.used["staleness"].nunique() < 2:
        raise MissingData("needs runs at several staleness values (difference_by_method)")
    pairs = selection.differences(one, common.metric(), "grpo")
    table = pairs[pairs["kind"] == "centre"].drop(columns=["kind", "seed"])
    figure, (ax,) = common.canvas(2, 3.1)
    handles = _lines(ax, table, pairs[pairs["kind"] == "seed"])
    ax.axhline(0, color=style.look("grpo").colour, linewidth=1.2)
    ax.axhspan(-inference.MARGIN, inference.MARGIN, color="#eeeeee", zorder=0)
    common.staleness_axis(ax, table["staleness"])
    ax.set_ylabel(f"{scores.OUTCOMES[scores.RANKED_BY]} − GRPO's")
    caption = (
        f"{scores.OUTCOMES[scores.RANKED_BY].capitalize()}; pairs share seed and prompts. Grey: ±{inference.MARGIN:g}, "
        "the margin of equivalence. "
    )
    caption += f"{common.sampling_words(table['n'])}"
    return common.finish(figure, table, caption.replace("seeds;", "pairs;"), missing, list(handles.values()))
