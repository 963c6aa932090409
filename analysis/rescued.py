"""What the forks of a collapsing run say: the last update from which each switch rescues, as tables and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import tabular
from analysis.figures import common
from analysis.figures.common import Drawing
from analysis.rescue import Curve, Search
from analysis.tabular import Table

RESCUED, LOST = "#0072B2", "#D55E00"


def table(searches: Sequence[Search]) -> Table:
    """A row a switch: the last update from which it rescues, the first from which it does not, and the price."""
    rows: list[list[object]] = [
        [
            search.switch,
            "never" if search.last is None else search.last,
            "–" if search.first_lost is None else search.first_lost,
            "–" if search.last is None else search.ends[search.last],
            len(search.ends),
            sum(search.parent.updates - update for update in search.ends),
        ]
        for search in searches
    ]
    parent = searches[0].parent
    updates, accuracy = parent.curve
    caption = (
        f"Forks of {parent.folder.name}, whose {parent.metric} on validation was best at update "
        f"{updates[accuracy.argmax()]:.0f} ({accuracy.max():.3f}) and last {accuracy[-1]:.3f}. Rescued: a fork's last "
        f"evaluation is {parent.target:.3f} or above. Bisected over the checkpoints at "
        f"{', '.join(map(str, parent.checkpoints))}, as if a switch that comes too late at one comes too late at every "
        "later one. One seed, one evaluation at the end."
    )
    return Table(["switch", "rescues until", "too late at", "ends at", "runs", "updates"], rows, caption)


def forks(searches: Sequence[Search]) -> Table:
    """A row a fork: where it began, where it ended, and whether that is a rescue."""
    rows: list[list[object]] = [
        [search.switch, update, _end(search.ends[update]), "yes" if search.rescues(update) else "no"]
        for search in searches
        for update in sorted(search.ends)
    ]
    return Table(["switch", "fork at", "ends at", "rescued"], rows, "ends at: last evaluation on validation.")


def draw(searches: Sequence[Search]) -> Drawing:
    """Validation accuracy of the parent and of its forks, a panel a switch, the last rescuing update marked."""
    parent = searches[0].parent
    figure, axes = common.canvas(2, 2.6, len(searches), sharey=True)
    for ax, search in zip(axes, searches, strict=True):
        _panel(ax, search)
    axes[0].set_ylabel(f"{parent.metric} (validation)")
    common.accuracy_scale(axes)
    rows = [_rows("", "parent", parent.curve)]
    rows += [
        _rows(s.switch, f"fork at {update}", curve) for s in searches for update, curve in sorted(s.curves.items())
    ]
    handles = [
        Line2D([], [], color="black", label="parent"),
        Line2D([], [], color=RESCUED, label="fork, rescued"),
        Line2D([], [], color=LOST, linestyle="--", label="fork, not rescued"),
        Line2D([], [], color=RESCUED, linestyle=":", label="last rescuing update"),
    ]
    caption = (
        f"Forks of {parent.folder.name} at the updates that a bisection asked for. Grey: {parent.target:.3f}, at or "
        "above which a fork must end to count as rescued. One seed."
    )
    return common.finish(figure, pd.concat(rows), caption, [], handles)


def write(searches: Sequence[Search], out: Path) -> list[Path]:
    """Writes tables and figure. out: folder that exists; rescue, forks (.md, .tex, .csv) and rescue_curves go there."""
    with common.options():
        return [
            *tabular.write(table(searches), out, "rescue"),
            *tabular.write(forks(searches), out, "forks"),
            *common.save(draw(searches), out, "rescue_curves"),
        ]


def _panel(ax: Axes, search: Search) -> None:
    parent = search.parent
    ax.axhline(parent.target, color="#999999", linewidth=0.8)
    ax.plot(*parent.curve, color="black", linewidth=1.6)
    for update, curve in sorted(search.curves.items()):
        look: dict[str, Any] = {"color": RESCUED} if search.rescues(update) else {"color": LOST, "linestyle": "--"}
        ax.plot(*curve, linewidth=1.1, marker="o", markersize=2.2, **look)
    if search.last is not None:
        ax.axvline(search.last, color=RESCUED, linestyle=":", linewidth=1.2)
    until = "never" if search.last is None else f"until {search.last}"
    ax.set_title("\n".join([*search.switch.split(), until]), fontsize="medium")  # a key a line: panels are narrow
    common.thin_updates(ax)


def _rows(switch: str, run: str, curve: Curve) -> pd.DataFrame:
    return pd.DataFrame({"switch": switch, "run": run, "update": curve[0], "accuracy": curve[1]})


def _end(accuracy: float) -> object:
    return accuracy if accuracy >= 0 else "failed"
