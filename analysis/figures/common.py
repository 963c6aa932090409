"""What all figures share: the canvas, legends beside the axes, captions with n, axes, and the files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import statistics, style
from analysis.plain import csv_cells

_columns: ContextVar[int | None] = ContextVar("columns", default=None)
_metric: ContextVar[str] = ContextVar("metric", default="sampled_accuracy")


class Aside(str):
    """Among the things a figure lacks: not missing from the runs, but left out of this figure on purpose."""


@dataclass
class Drawing:
    """A figure, the data behind it, what it says about itself, and what it lacks."""

    figure: Figure
    data: pd.DataFrame
    caption: str
    missing: list[str] = field(default_factory=list)


LEGEND_ROW, CAPTION_LINE = 0.15, 0.13  # inches


@contextmanager
def options(columns: int | None = None, metric: str = "sampled_accuracy"):
    """While the block runs figures are drawn for so many columns, with this accuracy.

    columns: 1 or 2 (default: each figure's own choice). metric: a name in eval.jsonl.
    """
    held = _columns.set(columns), _metric.set(metric)
    try:
        with matplotlib.rc_context(style.RC):
            yield
    finally:
        _columns.reset(held[0])
        _metric.reset(held[1])


def metric() -> str:
    """The evaluation metric the accuracy figures show."""
    return _metric.get()


def canvas(
    columns: int = 2, height: float = 3.1, panels: int = 1, rows: int = 0, **more: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with its panels side by side.

    columns: width, 1 or 2 columns of a paper. height: of a row, inches. panels: how many.
    rows: of panels (0: as few as fit the width).
    Returns the figure and its axes, a panel each.
    """
    columns = _columns.get() or columns
    width = style.COLUMN if columns == 1 else style.PAGE
    figure = Figure(figsize=(width, height), layout="constrained")
    if not rows:
        rows = -(-panels // (4 if columns == 2 else 1))
        figure.set_size_inches(width, height * (1 if rows == 1 else 0.8 * rows))
    across = -(-panels // rows)
    flat = list(figure.subplots(rows, across, squeeze=False, **more).flat)
    for spare in flat[panels:]:
        spare.remove()
    return figure, flat[:panels]


def finish(
    figure: Figure, data: pd.DataFrame, caption: str, missing: Iterable[str] = (), handles: Sequence[Any] = ()
) -> Drawing:
    """Adds the legend above the axes (it covers nothing) and the caption below; the figure grows by what they take.

    data: the numbers drawn. missing: what the figure lacks; an Aside goes into the caption. handles: of the legend.
    """
    width = figure.get_size_inches()[0]
    if handles:
        across = _legend_columns([len(str(h.get_label())) for h in handles], width)
        figure.legend(handles=handles, loc="outside upper left", ncols=across, columnspacing=1.4)
        _grow(figure, LEGEND_ROW * (-(-len(handles) // across) - 1))
    asides = list(dict.fromkeys(m for m in missing if isinstance(m, Aside)))
    missing = list(dict.fromkeys(m for m in missing if not isinstance(m, Aside)))
    caption = " ".join([caption, *(f"{aside}." for aside in asides)])
    text = caption + (f" Missing: {'; '.join(missing)}." if missing else "")
    lines = textwrap.wrap(text, int(width * 17.5))
    figure.supxlabel("\n".join(lines), fontsize=7, color="#444444", x=0.01, ha="left", linespacing=1.35)
    _grow(figure, CAPTION_LINE * max(0, len(lines) - 2))
    return Drawing(figure, data, caption, missing)


def _grow(figure: Figure, inches: float) -> None:
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + inches)


def accuracy_scale(axes: Iterable[Axes]) -> None:
    """An interval may reach past the accuracies that there are; the axis need not. axes: with accuracy upwards."""
    for ax in axes:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -0.04), min(high, 1.04))


def _legend_columns(lengths: list[int], width: float) -> int:
    """As many columns as fit `width` inches (a character of the legend's font is about 0.064 inches wide)."""
    for across in range(len(lengths), 1, -1):
        longest = [column.max() for column in np.array_split(lengths, across)]  # as matplotlib fills them
        if sum(0.064 * length + 0.68 for length in longest) <= width:
            return across
    return 1


def sampling_words(counts: Iterable[int]) -> str:
    """What a caption says about n, the interval, and its absence.

    counts: n of every series drawn.
    """
    counts = sorted({int(c) for c in counts if c > 0})
    if not counts:
        return ""
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    seeds = f"{n} seed{'s' if counts[-1] > 1 else ''}"
    if counts[-1] < statistics.MIN_SEEDS:
        return f"{seeds}: single seeds are drawn, no interval from fewer than 3."
    words = f"{seeds}; line: mean, band or bar: 95 % t interval, thin lines or points: single seeds."
    return words if counts[0] >= statistics.MIN_SEEDS else words + " No interval where n < 3."


def draw_series(
    ax: Axes,
    rows: pd.DataFrame,
    colour: str,
    dash: Any,
    *,
    width: float = 1.6,
    marker: str = "",
    label: str = "",
) -> Line2D:
    """One series on an axes: thin seeds, and with n ≥ 3 the centre and its band; a single seed is drawn as a centre is.

    rows: of `selection.over_seeds`, one series. dash: a matplotlib line style. width: of the centre, points.
    Returns the legend's handle.
    """
    centre = rows[rows["kind"] == "centre"].sort_values("update")
    n = int(centre["n"].max()) if len(centre) else 0
    seeds = rows[rows["kind"] == "seed"]
    enough = n >= statistics.MIN_SEEDS
    single = width if n == 1 else 0.9
    for _, run in seeds.groupby(["seed", "repeat"], sort=True):
        every = max(1, len(run) // 7)
        ax.plot(run["update"], run["value"], color=colour, linestyle=dash, linewidth=0.5 if enough else single,
                alpha=0.35 if enough else 0.85, marker="" if enough else marker, markevery=(every // 2, every),
                markersize=3.6, markeredgewidth=0.6)  # fmt: skip
    if enough:
        ax.fill_between(centre["update"], centre["low"], centre["high"], color=colour, alpha=0.14, linewidth=0)
        every = max(1, len(centre) // 7)
        ax.plot(centre["update"], centre["value"], color=colour, linestyle=dash, linewidth=width, marker=marker,
                markevery=(every // 2, every), markersize=3.6, markeredgewidth=0.6)  # fmt: skip
    return Line2D([], [], color=colour, linestyle=dash, linewidth=width if enough else single, marker=marker,
                  markersize=3.6, label=label)  # fmt: skip


def draw_estimates(
    ax: Axes, x: Any, table: pd.DataFrame, look: style.Look, seeds: tuple[Any, Any] = ((), ())
) -> Line2D:
    """Estimates of one method: a line, bars where there is an interval, the seeds as points.

    x: one place an estimate. table: columns value, low, high. seeds: places and values of the single seeds.
    Returns the line, a legend's handle.
    """
    at = np.asarray(x, dtype=float)
    has_interval = table["low"].notna().to_numpy()
    low, high = (table[side].to_numpy(float)[has_interval] for side in ("low", "high"))
    ax.vlines(at[has_interval], low, high, color=look.colour, linewidth=1.1, zorder=2)
    ax.plot(*seeds, ".", color=look.colour, alpha=0.4, markersize=3)
    (line,) = ax.plot(
        at, table["value"], color=look.colour, marker=look.marker, linewidth=look.width, label=look.label, zorder=3
    )
    return line


def thin_updates(ax: Axes) -> None:
    """Few, whole ticks on an axis of updates."""
    ax.set_xlabel("updates")
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    ax.margins(x=0.01)
    ax.set_xlim(left=0)


def fraction_scale(ax: Axes, values: pd.Series, axis: str = "y") -> None:
    """A log scale that still shows 0: fractions span decades and M2PO's is often exactly 0.

    values: what is drawn, ≥ 0. axis: "x" or "y".
    """
    positive = values[values > 0]
    if positive.empty:
        return
    floor = float(10 ** np.floor(np.log10(max(np.quantile(positive.to_numpy(float), 0.05), 1e-7))))
    scale = {"linthresh": floor, "linscale": 0.35}
    top = float(positive.max()) * 1.6
    if axis == "y":
        ax.set_yscale("symlog", **scale)
        ax.set_ylim(-0.3 * floor, top)
        ax.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    else:
        ax.set_xscale("symlog", **scale)
        ax.set_xlim(-0.3 * floor, top)


def margin_bar(ax: Axes, margin: float, label: str = "") -> None:
    """A bar as long as a margin beside the right edge, where the axis shows little more: small differences look large.

    margin: in the unit of the y axis. label: behind the number.
    """
    low, high = ax.get_ylim()
    if not 0 < margin < (high - low) <= 15 * margin:
        return
    at = low + 0.04 * (high - low)
    ax.plot([0.985, 0.985], [at, at + margin], transform=ax.get_yaxis_transform(), color="#555555", linewidth=2.5,
            solid_capstyle="butt")  # fmt: skip
    ax.text(0.975, at + margin / 2, f"{margin:g}{label}", transform=ax.get_yaxis_transform(), fontsize=6.5,
            ha="right", va="center", color="#555555")  # fmt: skip


def difference_scale(ax: Axes, margin: float, values: pd.Series, colour: str = "#888888") -> None:
    """An x axis of differences in accuracy: linear within a margin, which is shaded, and logarithmic beyond it.

    margin: of equivalence. values: what will be drawn. colour: of the line at 0.
    """
    ax.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    ax.axvline(0, color=colour, linewidth=1.2)
    ax.set_xscale("symlog", linthresh=margin, linscale=0.7)
    beyond = (0.1, 0.5) if values.abs().max() > 0.15 else (0.05, 0.1)
    ticks = sorted({0, margin, -margin, *beyond, *(-tick for tick in beyond)})
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def log_scale(ax: Axes, values: pd.Series, axis: str = "y") -> None:
    """A log scale with at least a few labelled ticks: 1, 2, 5 in each decade where there are fewer than three.

    values: what is drawn; nothing is done unless some are > 0. axis: "x" or "y".
    """
    positive = values[values > 0]
    if positive.empty:
        return
    ax.set(**{f"{axis}scale": "log"})
    decades = float(np.log10(positive.max() / positive.min()))
    held = ax.yaxis if axis == "y" else ax.xaxis
    if decades < 3:
        held.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5) if decades > 0.5 else range(1, 10)))
        held.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        held.set_minor_locator(matplotlib.ticker.NullLocator())


def staleness_axis(ax: Axes, values: Iterable[int]) -> None:
    """An x axis of staleness: 0, then a log scale from the smallest positive value on.

    values: staleness values, updates.
    """
    ticks = sorted(set(values))
    positive = [s for s in ticks if s > 0]
    if positive:
        ax.set_xscale("symlog", base=2, linthresh=positive[0], linscale=0.8)
        ax.set_xlim(-0.4 * positive[0], ticks[-1] * 1.35)
    ax.set_xticks(ticks, [str(s) for s in ticks])
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    ax.set_xlabel("staleness s (updates)")


def side_by_side(staleness: pd.Series, index: int, of: int, first: int) -> np.ndarray:
    """Places on a staleness axis that keep the bars of several methods apart.

    staleness: of one method's points, updates. index, of: which of how many methods. first: smallest staleness > 0.
    Returns one place a point.
    """
    factor = 1 + min(0.035, 0.2 / of) * (index - (of - 1) / 2)
    s = staleness.to_numpy(dtype=float)
    return np.where(s == 0, first * (factor - 1), s * factor)


# --------------------------------------------------------------------------------------------- files


def save(drawing: Drawing, out: Path, name: str) -> list[Path]:
    """Writes PNG, PDF and the CSV behind them; the same drawing gives the same bytes.

    out: folder that exists. Returns the three paths.
    """
    png, pdf, csv = (out / f"{name}.{kind}" for kind in ("png", "pdf", "csv"))
    drawing.figure.savefig(png, metadata={"Software": None})
    drawing.figure.savefig(pdf, metadata={"Creator": None, "Producer": None, "CreationDate": None})
    shown = drawing.data.drop(columns="decimals", errors="ignore")  # of an Estimate, how it is printed
    tidy = csv_cells(shown.dropna(axis=1, how="all"))
    tidy.to_csv(csv, index=False, float_format="%.6g", lineterminator="\n")
    return [png, pdf, csv]
