"""What a table is, and the one place where its cells become text: Markdown, LaTeX (booktabs), CSV."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.errors import AnalysisError, MissingData, reason
from analysis.plain import csv_cells, markdown_text, pipes
from analysis.statistics import Estimate


@dataclass(frozen=True)
class Table:
    """Rows of cells (text, numbers, Estimates), the names of the columns, and a caption that says n."""

    columns: list[str]
    rows: list[list[object]]
    caption: str


def texts(table: Table) -> list[list[str]]:
    """Every cell as text, row by row."""
    return [[_text(cell) for cell in row] for row in table.rows]


def markdown(table: Table) -> str:
    """GitHub's pipes, with the caption below."""
    return f"{pipes([table.columns, *texts(table)])}\n\n{markdown_text(table.caption)}\n"


def made(title: str, make: Callable[..., Table], *given: object) -> Table:
    """A table, or one that says why it could not be made.

    title: what it is called there.
    make, given: the function that makes it, and its arguments.
    Raises AnalysisError for what its user got wrong.
    """
    try:
        return make(*given)
    except AnalysisError as error:
        if not isinstance(error, MissingData):
            raise
        return Table(["not made"], [[f"{title}: {reason(error)}"]], "")
    except Exception as error:
        return Table(["not made"], [[f"{title}: {reason(error)}"]], "")


def latex(table: Table) -> str:
    """A booktabs table."""
    head = " & ".join(map(_escaped, table.columns))
    body = "\n".join("  " + " & ".join(_escaped(_text(cell)) for cell in row) + r" \\" for row in table.rows)
    shape = "".join("l" if _is_text(table, i) else "r" for i in range(len(table.columns)))
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escaped(table.caption)}}}\n  \\begin{{tabular}}{{{shape}}}\n  \\toprule\n"
        f"  {head} \\\\\n  \\midrule\n{body}\n  \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def frame(table: Table) -> pd.DataFrame:
    """The table as a DataFrame: an estimate is spread over four columns (value, low, high, n)."""
    rows = []
    for row in table.rows:
        flat: dict[str, object] = {}
        for name, cell in zip(table.columns, row, strict=True):
            if isinstance(cell, Estimate):
                flat |= {
                    name: cell.value,
                    f"{name} low": cell.low,
                    f"{name} high": cell.high,
                    f"{name} n": cell.n,
                }
            else:
                flat[name] = cell
        rows.append(flat)
    return pd.DataFrame(rows)


def write(table: Table, out: Path, name: str) -> list[Path]:
    """Writes a table as Markdown, LaTeX and CSV.

    out: folder that exists. name: of the files, without suffix. Returns the paths.
    """
    paths = [out / f"{name}.{kind}" for kind in ("md", "tex", "csv")]
    paths[0].write_text(markdown(table), encoding="utf-8")
    paths[1].write_text(latex(table), encoding="utf-8")
    csv_cells(frame(table)).to_csv(paths[2], index=False, float_format="%.6g", lineterminator="\n")
    return paths


def _text(cell: object) -> str:
    if isinstance(cell, Estimate):  # n stands in a column of its own
        return str(cell).split(" (")[0]
    if isinstance(cell, float):
        return "–" if math.isnan(cell) else f"{cell:.3f}"
    return str(cell)


def _is_text(table: Table, column: int) -> bool:
    return any(isinstance(row[column], str) for row in table.rows)


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
          "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
