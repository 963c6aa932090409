"""F1 to F9 and F11 of the M2PO paper (arXiv 2510.01161): the same axes, with seeds and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis import scores, statistics, style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.figures.main import acting_fraction
from analysis.study import Study

STALE = -1  # stands for the study's largest staleness (the paper's 256)


@dataclass(frozen=True)
class Line:
    """One curve: a method at a staleness."""

    algorithm: str
    staleness: int


ON_POLICY = Line("grpo", 0)
GRPO, M2PO, FREE = Line("grpo", STALE), Line("m2po", STALE), Line("no_trust_region", STALE)


def accuracy_when_stale(study: Study) -> Drawing:
    """Accuracy: on-policy GRPO, and at the largest staleness GRPO, no trust region, M2PO."""
    return _accuracy(study, [ON_POLICY, GRPO, FREE, M2PO], "Accuracy on policy and at the largest staleness (F1 left).")


def clipping_when_stale(study: Study) -> Drawing:
    """Clipping ratio: on-policy GRPO, stale GRPO, stale M2PO."""
    return _clipping(study, [ON_POLICY, GRPO, M2PO], "Share of tokens masked or changed by the rule (F1 right).")


def grpo_by_staleness(study: Study) -> Drawing:
    """GRPO under every staleness there is."""
    return _one_method(study, "grpo", "GRPO under growing staleness (F2).")


def m2po_by_staleness(study: Study) -> Drawing:
    """M2PO under every staleness there is."""
    return _one_method(study, "m2po", "M2PO under growing staleness (F11).")


def with_and_without_trust_region(study: Study) -> Drawing:
    """Accuracy with and without a trust region, a panel a base model, the onset of collapse marked."""
    models = sorted(study.used["model"].unique())
    figure, axes = common.canvas(2, 3.2, len(models), sharey=True)
    parts: list[pd.DataFrame] = []
    missing: list[str] = []
    onset_words: list[str] = []
    handles: dict[str, Line2D] = {}
    for ax, model in zip(axes, models, strict=True):
        one, notes = selection.reference(study.keep(study.runs[study.runs["model"] == model]))
        rows, lacking = pick(one, selection.evaluated(one), [ON_POLICY, GRPO, FREE])
        missing += notes + lacking
        handles |= _draw(ax, rows)
        onsets = scores.per_run(one, common.metric())
        onsets = onsets[(onsets["algorithm"] == "no_trust_region") & onsets["collapse"].notna()]
        for update in onsets["collapse"]:
            ax.axvline(update, color=style.look("no_trust_region").colour, linewidth=0.6, linestyle=":")
        if len(onsets):
            onset_words.append(f"{model}: {', '.join(f'{u:.0f}' for u in sorted(onsets['collapse']))}")
        ax.set_title(model if len(models) > 1 else "")
        parts.append(rows.assign(model=model))
    if len(models) < 2:
        missing.append("a second base model")
    axes[0].set_ylabel(f"accuracy ({scores.reported_split(study)})")
    rows = pd.concat(parts, ignore_index=True)
    collapse = f" Dotted: onset of collapse, at update {'; '.join(onset_words)}." if onset_words else ""
    caption = f"With (GRPO) and without a trust region (F3).{collapse} {_n(rows)}"
    return common.finish(figure, rows, caption, missing, list(handles.values()))


def clipping_of_grpo(study: Study) -> Drawing:
    """Clipping ratio of GRPO, stale and on-policy."""
    return _clipping(study, [ON_POLICY, GRPO], "Share of tokens GRPO clips, stale and on-policy (F4a).")


def training_reward(study: Study) -> Drawing:
    """Training reward of on-policy GRPO, stale GRPO, stale M2PO."""
    return _metric(study, "reward", [ON_POLICY, GRPO, M2PO], "training reward", "Training reward (F5).")


def other_stabilisers(study: Study) -> Drawing:
    """The other stabilisers at the largest staleness."""
    names = ("cispo", "decoupled", "topr", "gppo", "m2po")
    return _accuracy(study, [Line(name, STALE) for name in names], "Other stabilisers beside M2PO (F6).")


def clipping_along_the_run(study: Study) -> Drawing:
    """Clipping ratio again, the three series of the paper's ablation."""
    return _clipping(study, [ON_POLICY, GRPO, M2PO], "Clipping ratio along the run (F7a).")


def mean_clipping_ratio(study: Study) -> Drawing:
    """Mean clipping ratio over the run, bars a base model."""
    models = sorted(study.used["model"].unique())
    parts, seeds, missing = [], [], []
    for model in models:
        one, notes = selection.reference(study.keep(study.runs[study.runs["model"] == model]))
        present, lacking = _there(one, [ON_POLICY, GRPO, M2PO])
        means = acting_fraction(one).groupby("run", observed=True)["value"].mean().rename("clipping")
        runs = one.used.merge(means, on="run")
        for line in present:
            chosen = runs[(runs["algorithm"] == line.algorithm) & (runs["staleness"] == line.staleness)]
            cell = {"model": model, **vars(line)}
            seeds += [cell | {"value": value} for value in chosen["clipping"]]
            parts.append(cell | vars(statistics.estimate(chosen["clipping"].to_numpy())))
        missing += notes + lacking
    if len({(part["algorithm"], part["staleness"]) for part in parts}) < 2:
        raise MissingData("needs runs of grpo on policy, and of grpo or m2po with staleness > 0")
    if len(models) < 2:
        missing.append("a second base model")
    table = pd.DataFrame(parts)
    figure, (ax,) = common.canvas(1, 2.9)
    _bars(ax, table, pd.DataFrame(seeds), models)
    ax.set_ylabel("mean clipping ratio")
    common.fraction_scale(ax, table["value"])
    return common.finish(figure, table, f"Mean over the run (F7b). {common.sampling_words(table['n'])}", missing)


def second_moment(study: Study) -> Drawing:
    """M2 over trust-region tokens before and after the mask, at the largest staleness."""
    one, missing = selection.reference(study)
    rows_of = {}
    for name in ("m2_before", "m2_after"):
        rows_of[name], lacking = pick(one, selection.windowed(one, name), [GRPO, M2PO], at_least=1)
        missing += lacking
    figure, axes = common.canvas(2, 3.0, 2, sharey=True)
    own = one.runs["used"] & (one.runs["algorithm"] == M2PO.algorithm)
    thresholds = sorted(set(one.column("algo.m2_threshold")[own].dropna())) if own.any() else []
    handles: dict = {}
    for ax, (name, rows) in zip(axes, rows_of.items(), strict=True):
        handles |= _draw(ax, rows.assign(low=rows["low"].where(rows["low"] > 0)))  # the axis is logarithmic
        ax.set_title("before the mask" if name == "m2_before" else "after the mask")
        for tau in thresholds:
            ax.axhline(tau, color="#888888", linewidth=0.8, linestyle="--")
    common.log_scale(axes[0], pd.concat([rows["value"] for rows in rows_of.values()]))
    axes[0].set_ylabel("M2 over trust-region tokens")
    for tau in thresholds:
        axes[1].annotate(f"τ = {tau:g}", (0.02, tau), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    data = pd.concat([rows.assign(metric=name) for name, rows in rows_of.items()], ignore_index=True)
    return common.finish(
        figure,
        data,
        f"Second moment of the log-ratio (F9a); no band where it reaches 0. {_n(data)}",
        missing,
        list(handles.values()),
    )


def kl(study: Study) -> Drawing:
    """KL (k1) of the current against the behaviour policy."""
    lines = [ON_POLICY, GRPO, M2PO]
    return _metric(study, "k1", lines, "KL, k1 estimate (nats)", "k1 = −mean log-ratio over valid tokens (F9b).")


# ----------------------------------------------------------------------------------------------- parts


def _there(study: Study, lines: Sequence[Line]) -> tuple[list[Line], list[str]]:
    """The lines that have runs, STALE replaced by the number, and a word on each that has none."""
    pairs = set(zip(study.used["algorithm"], study.used["staleness"], strict=True))
    present, missing = [], []
    for line in lines:
        s = line.staleness if line.staleness != STALE else selection.stalest(study)
        if (line.algorithm, s) in pairs:
            present.append(Line(line.algorithm, s))
        else:
            missing.append(style.label(line.algorithm, s))
    return present, missing


def pick(study: Study, curve: pd.DataFrame, lines: Sequence[Line], at_least: int = 2) -> tuple[pd.DataFrame, list[str]]:
    """The points of some lines.

    curve: `run update value`. lines: which. at_least: lines without which there is nothing to see.
    Returns the rows of `selection.over_seeds` in the order of the lines, and a word on each that has none.
    Raises MissingData if fewer have a value.
    """
    present, missing = _there(study, lines)
    rows = selection.over_seeds(study, curve)
    chosen = [rows[(rows["algorithm"] == line.algorithm) & (rows["staleness"] == line.staleness)] for line in present]
    missing += [
        f"values of {style.label(line.algorithm, line.staleness)}"
        for line, part in zip(present, chosen, strict=True)
        if part.empty
    ]
    if sum(bool(len(part)) for part in chosen) < at_least:
        raise MissingData(f"needs runs of {' or '.join(dict.fromkeys(missing)) or 'these methods'}")
    return pd.concat(chosen, ignore_index=True), missing


def _draw(ax, rows: pd.DataFrame) -> dict:
    """Curves in the methods' colours; on-policy is dashed. Returns the legend's handles by label."""
    handles = {}
    for _, part in rows.groupby(["algorithm", "staleness"], sort=False):
        algorithm, s = str(part["algorithm"].iloc[0]), int(part["staleness"].iloc[0])
        look, name = style.look(algorithm), style.label(algorithm, s)
        handles[name] = common.draw_series(
            ax, part, look.colour, style.dashes([0, s])[s], width=look.width, marker=look.marker, label=name
        )
    common.thin_updates(ax)
    return handles


def _n(rows: pd.DataFrame) -> str:
    return common.sampling_words(selection.counts(rows))


def _accuracy(study: Study, lines: Sequence[Line], caption: str) -> Drawing:
    one, missing = selection.reference(study)
    rows, lacking = pick(one, selection.evaluated(one), lines)
    figure, (ax,) = common.canvas(1, 3.1)
    handles = _draw(ax, rows)
    ax.set_ylabel(f"accuracy ({scores.reported_split(one)})")
    common.accuracy_scale([ax])
    return common.finish(figure, rows, f"{caption} {_n(rows)}", missing + lacking, list(handles.values()))


def _clipping(study: Study, lines: Sequence[Line], caption: str) -> Drawing:
    one, missing = selection.reference(study)
    rows, lacking = pick(one, acting_fraction(one), lines)
    figure, (ax,) = common.canvas(1, 3.1)
    handles = _draw(ax, rows)
    common.fraction_scale(ax, rows["value"])
    ax.set_ylabel("clipping ratio")
    return common.finish(figure, rows, f"{caption} {_n(rows)}", missing + lacking, list(handles.values()))


def _metric(study: Study, name: str, lines: Sequence[Line], quantity: str, caption: str) -> Drawing:
    one, missing = selection.reference(study)
    rows, lacking = pick(one, selection.windowed(one, name), lines)
    figure, (ax,) = common.canvas(1, 3.1)
    handles = _draw(ax, rows)
    ax.set_ylabel(quantity)
    return common.finish(figure, rows, f"{caption} {_n(rows)}", missing + lacking, list(handles.values()))


def _one_method(study: Study, algorithm: str, caption: str) -> Drawing:
    one, missing = selection.reference(study)
    staleness = sorted(one.used.loc[one.used["algorithm"] == algorithm, "staleness"].unique())
    if not staleness:
        raise MissingData(f"needs runs of {algorithm}")
    if len(staleness) < 2:
        raise MissingData(f"needs runs of {algorithm} at several staleness values")
    rows, _ = pick(one, selection.evaluated(one), [Line(algorithm, s) for s in staleness])
    figure, (ax,) = common.canvas(1, 3.1)
    shade, dash = style.shades(staleness), style.dashes(staleness)
    handles = [
        common.draw_series(ax, rows[rows["staleness"] == s], shade[s], dash[s], label=f"s = {s}") for s in staleness
    ]
    common.thin_updates(ax)
    ax.set_ylabel(f"accuracy ({scores.reported_split(one)})")
    common.accuracy_scale([ax])
    return common.finish(figure, rows, f"{caption} {_n(rows)}", missing, handles)


def _bars(ax, table: pd.DataFrame, seeds: pd.DataFrame, models: Sequence[str]) -> None:
    """Grouped bars with their interval, the seeds as points; on-policy is hatched."""
    lines = list(dict.fromkeys(zip(table["algorithm"], table["staleness"], strict=True)))
    width = 0.8 / len(lines)
    for index, (algorithm, s) in enumerate(lines):
        part = table[(table["algorithm"] == algorithm) & (table["staleness"] == s)]
        x = np.array([models.index(m) for m in part["model"]]) + width * (index - (len(lines) - 1) / 2)
        ax.bar(x, part["value"], width * 0.9, color=style.look(algorithm).colour, alpha=0.45 if s == 0 else 1.0,
               hatch="//" if s == 0 else "", edgecolor="white", label=style.label(algorithm, s))  # fmt: skip
        has_interval = part["low"].notna().to_numpy()
        ax.vlines(x[has_interval], part["low"][has_interval], part["high"][has_interval], color="#444444", linewidth=1)
        mine = seeds[(seeds["algorithm"] == algorithm) & (seeds["staleness"] == s)]
        centre = dict(zip(part["model"], x, strict=True))
        ax.plot([centre[m] + 0.2 * width for m in mine["model"]], mine["value"], ".", color="#444444", markersize=3)
        for at, value in zip(x, part["value"], strict=True):
            ax.annotate(f"{100 * value:.2g} %", (at, value), xytext=(0, 6), textcoords="offset points",
                        ha="center", fontsize=6.5)  # fmt: skip
    ax.set_xticks(range(len(models)), models)
    ax.grid(axis="x", visible=False)
    ax.figure.legend(loc="outside upper left", ncols=2)
