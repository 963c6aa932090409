"""One look for everything: a colour and a marker an algorithm, a dash a staleness, two widths.

Colours differ in hue for the colour-blind and, for the five methods of the main study, in lightness for grey
print; a marker tells apart any two methods whose colours are close.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.colors import to_hex

matplotlib.use("Agg")

COLUMN, PAGE = 3.5, 7.16  # inches: one and two columns of a paper


@dataclass(frozen=True)
class Look:
    """How a method is called and drawn."""

    label: str
    colour: str
    marker: str
    width: float = 1.4


LOOKS = {
    "m2po": Look("M2PO", "#D55E00", "o", 2.2),
    "grpo": Look("GRPO", "#00549F", "s", 2.0),
    "no_trust_region": Look("no trust region", "#222222", "X"),
    "gspo": Look("GSPO", "#2FB183", "^"),
    "tis": Look("TIS", "#E8B800", "D"),
    "cispo": Look("CISPO", "#CC79A7", "v"),
    "decoupled": Look("decoupled PPO", "#56B4E9", "P"),
    "topr": Look("TOPR", "#882255", "<"),
    "gppo": Look("GPPO", "#117733", ">"),
    "gspo_token": Look("GSPO-token", "#7FD4B5", "2"),
    "mis": Look("MIS", "#A08200", "d"),
    "sapo": Look("SAPO", "#AA4499", "p"),
    "dppo": Look("DPPO", "#6A6FD8", "h"),
    "bapo": Look("BAPO", "#8C564B", "*"),
    "opsm": Look("OPSM", "#5F8700", "8"),
    "m2_penalty": Look("M2 penalty", "#F5A582", "H"),
    "engine_mismatch": Look("engine mismatch", "#7F3C8D", "1"),
    "reinforce": Look("REINFORCE (w = 1)", "#4D4D4D", "x"),
    "naive_proximal": Look("naive proximal", "#C71585", "+"),
    "reject": Look("rejection", "#CAB2D6", "3"),
    "vespo": Look("VESPO", "#1F78B4", "4"),
    "gmpo": Look("GMPO", "#33A02C", "|"),
    "snis": Look("SNIS", "#B2A300", "_"),
    "m2po_released": Look("M2PO, released", "#E69F00", "$r$", 1.8),
    "clip_at_width": Look("clip at M2PO's width", "#3B3B98", "$w$"),
    "per_decision": Look("per-decision IS", "#FB9A99", "."),
}
_SPARE = (("#1B9E77", "$a$"), ("#7570B3", "$b$"), ("#E7298A", "$c$"), ("#66A61E", "$d$"), ("#A6761D", "$e$"))
_DASHES: tuple[Any, ...] = ("-", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 3)), (0, (8, 3)))

RC: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.markersize": 4.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "pdf.fonttype": 42,  # embedded TrueType
    "savefig.dpi": 200,
    "figure.dpi": 200,
}


def look(algorithm: str) -> Look:
    """The look of a method; one that is not ours gets a spare one, always the same for its name."""
    if algorithm in LOOKS:
        return LOOKS[algorithm]
    colour, marker = _SPARE[sum(algorithm.encode()) % len(_SPARE)]
    return Look(algorithm, colour, marker)


def order(algorithms: Iterable[str]) -> list[str]:
    """Methods in the order of the palette, then the others by name."""
    names = list(LOOKS)
    return sorted(set(algorithms), key=lambda a: (names.index(a) if a in names else len(names), a))


def dashes(staleness: Iterable[int]) -> dict[int, Any]:
    """A line style for each staleness: on-policy dashed (as in the paper), the largest solid.

    Returns staleness → matplotlib line style.
    """
    rest = sorted(set(staleness) - {0}, reverse=True)
    return {0: (0, (4, 1.6))} | {s: _DASHES[index % len(_DASHES)] for index, s in enumerate(rest)}


def shades(staleness: Iterable[int]) -> dict[int, str]:
    """A colour for each staleness, for a figure about one method: dark for fresh, light for stale (also in grey).

    Returns staleness → "#rrggbb".
    """
    values = sorted(set(staleness))
    return {s: to_hex(colormaps["viridis"](0.85 * index / max(1, len(values) - 1))) for index, s in enumerate(values)}


def label(algorithm: str, staleness: int | None = None, setting: str = "") -> str:
    """How a legend names a series: "M2PO, s = 256".

    staleness: None to leave it out. setting: added in brackets when there are several.
    """
    parts = [look(algorithm).label]
    if staleness is not None:
        parts.append("on-policy" if staleness == 0 else f"s = {staleness}")
    return ", ".join(parts) + (f" ({setting})" if setting else "")
