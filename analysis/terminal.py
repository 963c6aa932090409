"""Tables on a terminal: one wider than the screen comes in parts, each with the columns that name its rows."""

from __future__ import annotations

import shutil
import sys
import textwrap

from analysis.plain import pipes
from analysis.tabular import Table, markdown, texts

COUNTS = ("n", "runs")  # the first column behind those that name a row


def show(table: Table) -> None:
    """Prints a table as Markdown: on a terminal in parts that fit it, elsewhere whole."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        shown = [pipes(part) for part in parts(table, width)]
        print("\n\n".join([*shown, textwrap.fill(table.caption, width)]) + "\n")
    else:
        print(markdown(table))


def parts(table: Table, width: int) -> list[list[list[str]]]:
    """The columns of a table, divided so that each part fits a width beside the columns that name the rows.

    width: characters. Returns for each part the heading and the rows as text; one column may be wider than the screen.
    """
    columns = [list(column) for column in zip(table.columns, *texts(table), strict=True)]
    first = next((i for i, name in enumerate(table.columns) if name in COUNTS), 1)
    names = columns[:first]
    groups: list[list[list[str]]] = [[]]
    for column in columns[first:]:
        if groups[-1] and _width([*names, *groups[-1], column]) > width:
            groups.append([])
        groups[-1].append(column)
    return [[list(row) for row in zip(*names, *group, strict=True)] for group in groups]


def _width(columns: list[list[str]]) -> int:
    """Characters of a line with these columns between pipes."""
    return sum(max(map(len, column)) + 3 for column in columns) + 1
