"""Targets beside what was measured: the rows that the benchmarks page gathers at its top."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

HEAD = "| what | target | measured: median (quartiles) | |\n|---|---|---|---|"


def middle(values: Sequence[float]) -> str:
    """Median and, of two or more rounds, the quartiles."""
    median = number(statistics.median(values))
    if len(values) < 2:
        return median
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median} ({number(low)}–{number(high)})"


def number(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:#.3g}"


def row(what: str, values: Sequence[float], target: str, unit: str = "", *, explained: str = "") -> str:
    """values: of each round. target: "≥ 2", "≤ 0.25", or "–" for none. explained: why it may be missed."""
    if target == "–":
        return f"| {what} | – | {middle(values)} {unit} |  |"
    sign, bound = target.split()
    median = statistics.median(values)
    met = median >= float(bound) if sign == "≥" else median <= float(bound)
    missed = f"missed: {explained}" if explained else "missed"
    return f"| {what} | {target} {unit} | {middle(values)} {unit} | {'met' if met else missed} |"


def table(rows: Sequence[str]) -> str:
    return "\n".join(("", HEAD, *rows))


def rows_of(text: str) -> list[str]:
    """The rows of every such table in a benchmark's output."""
    return [line for part in text.split(HEAD + "\n")[1:] for line in part.split("\n\n")[0].splitlines() if line]
