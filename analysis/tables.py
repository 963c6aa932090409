"""Tables as Markdown, LaTeX (booktabs) and CSV. A table keeps its numbers; only the writers turn them to text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import statistics, style
from analysis.runs import Study
from analysis.statistics import Estimate


@dataclass(frozen=True)
class Table:
    """Rows of cells (text, numbers, Estimates), the names of the columns, and a caption that says n."""

    columns: list[str]
    rows: list[list[object]]
    caption: str


def summary(study: Study, metric: str = "sampled_accuracy", last: int = 3) -> Table:
    """The sweep's own table: one row an algorithm × staleness × setting."""
    runs = statistics.scores(study, metric, last)
    keys = ["algorithm", "staleness", "setting"]
    several = runs["setting"].nunique() > 1
    failed = study.unused.groupby(["algorithm", "staleness"]).size() if len(study.unused) else {}
    rows: list[list[object]] = []
    for (algorithm, staleness, setting), group in sorted(
        runs.groupby(keys, observed=True), key=lambda item: (_rank(item[0][0]), item[0][1:])
    ):
        collapsed = group["collapse"].dropna()
        onset = f"{len(collapsed)}/{len(group)}"
        if len(collapsed):
            onset += f" at {', '.join(f'{u:.0f}' for u in sorted(collapsed))}"
        rows.append(
            [
                style.look(algorithm).label,
                int(staleness),
                *([setting or "–"] if several else []),
                len(group),
                *(statistics.estimate(group[value].to_numpy()) for value in ("best", "final", "last_k")),
                onset,
                int(failed.get((algorithm, staleness), 0)),
            ]
        )
    columns = ["algorithm", "s", *(["setting"] if several else []), "n", "best", "final"]
    columns += [f"mean of last {last}", "collapsed", "unused runs"]
    split = statistics.reported_split(study)
    caption = (
        f"{metric} on {split}. best: at the update that is best on validation. Interquartile mean over seeds "
        "(the mean where n < 4) and 95 % percentile bootstrap interval, none where n < 3; with few seeds such an "
        "interval is too narrow (docs/analysis.md). collapsed: runs, and the update of onset."
    )
    return Table(columns, rows, caption)


def _rank(algorithm: str) -> tuple[int, str]:
    known = list(style.LOOKS)
    return (known.index(algorithm) if algorithm in known else len(known), algorithm)


# ------------------------------------------------------------------------------------------- writers


def markdown(table: Table) -> str:
    """GitHub's pipes, with the caption below."""
    cells = [[_text(cell).replace("|", "\\|") for cell in row] for row in table.rows]
    widths = [max(len(row[i]) for row in [table.columns, *cells]) for i in range(len(table.columns))]

    def line(row: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(table.columns), rule, *map(line, cells)]) + f"\n\n{table.caption}\n"


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
    """Estimates spread over four columns: value, low, high, n."""
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
    """`name`.md, .tex and .csv in `out`."""
    paths = [out / f"{name}.{kind}" for kind in ("md", "tex", "csv")]
    paths[0].write_text(markdown(table), encoding="utf-8")
    paths[1].write_text(latex(table), encoding="utf-8")
    frame(table).to_csv(paths[2], index=False, float_format="%.6g", lineterminator="\n")
    return paths


def _text(cell: object) -> str:
    if isinstance(cell, Estimate):  # n stands in a column of its own
        return str(cell).split(" (")[0]
    if isinstance(cell, float):
        return "–" if cell != cell else f"{cell:.3f}"
    return str(cell)


def _is_text(table: Table, column: int) -> bool:
    return any(isinstance(row[column], str) for row in table.rows)


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
          "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}  # fmt: skip


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
