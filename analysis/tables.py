"""Tables as Markdown, LaTeX (booktabs) and CSV; a table keeps its numbers, only the writers make text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import scores, statistics, style
from analysis.statistics import Estimate
from analysis.study import Study


@dataclass(frozen=True)
class Table:
    """Rows of cells (text, numbers, Estimates), the names of the columns, and a caption that says n."""

    columns: list[str]
    rows: list[list[object]]
    caption: str


FEW_SEEDS = (
    "Interquartile mean over seeds (the mean where n < 4) and 95 % percentile bootstrap interval, none where "
    "n < 3; at n = 3 it is the smallest and the largest value (docs/analysis.md)."
)

UNTUNED = "Each method stands at the setting it was run with: a table of untuned methods does not rank them."


def summary(study: Study, metric: str = "sampled_accuracy", last: int = 3) -> Table:
    """The sweep's own table: a row an algorithm × staleness × setting.

    metric: the accuracy, a name in eval.jsonl. last: evaluations in the last-k mean.
    """
    runs = scores.per_run(study, metric, last)
    several = _several_settings(runs)
    unused = study.unused.groupby(["algorithm", "staleness"]).size().to_dict() if len(study.unused) else {}
    rows = []
    for names, group in _groups(runs, several):
        values = [statistics.estimate(group[value].to_numpy()) for value in ("best", "final", "last_k")]
        key = (group["algorithm"].iloc[0], group["staleness"].iloc[0])
        rows.append([*names, len(group), *values, _collapsed(group), int(unused.get(key, 0))])
    columns = [*_names(several), "n", "best", "final", f"mean of last {last}", "collapsed", "unused runs"]
    caption = (
        f"{metric} on {scores.reported_split(study)}. best: at the update that is best on validation. "
        f"{FEW_SEEDS} collapsed: runs, and the update of onset."
    )
    return Table(columns, rows, caption)


def table1(study: Study, metric: str = "sampled_accuracy") -> Table:
    """The shape of the M2PO paper's Table 1: a column a benchmark and their average, a row a method and staleness.

    Each run is read at the update that is best on its validation split, never on the benchmarks themselves.

    metric: the accuracy, a name in eval.jsonl.
    """
    runs = scores.per_run(study, metric)
    chosen = runs[["run", "best_update"]].rename(columns={"best_update": "update"})
    evaluations = study.evaluations.astype({"run": str}).merge(chosen, on=["run", "update"])
    benchmarks = scores.reported_splits(study)
    by_split = evaluations.pivot_table(index="run", columns="split", values=metric)
    by_split["average"] = by_split[benchmarks].mean(axis=1, skipna=False)
    runs = runs.merge(by_split, left_on="run", right_index=True)
    shown = benchmarks if len(benchmarks) == 1 else [*benchmarks, "average"]
    several = _several_settings(runs)
    rows = [
        [*names, len(group), *(statistics.estimate(group[split].to_numpy()) for split in shown)]
        for names, group in _groups(runs, several)
    ]
    caption = f"{metric} at the update that is best on validation. {FEW_SEEDS}"
    return Table([*_names(several), "n", *shown], rows, caption)


def leaderboard(study: Study, metric: str = "sampled_accuracy") -> Table:
    """Methods in the order of their final accuracy under staleness, over the staleness values they share.

    metric: the accuracy, a name in eval.jsonl.
    """
    runs = scores.per_run(study, metric)
    shared = _shared_staleness(runs)
    base = runs[(runs["algorithm"] == "grpo") & runs["reference"]]
    several = _several_settings(runs)
    ranked, lacking = [], []
    for (algorithm, setting), group in runs.groupby(["algorithm", "setting"], observed=True):
        names = [style.look(str(algorithm)).label, *([setting or "reference"] if several else [])]
        cells = [group.loc[group["staleness"] == s, "last_k"].to_numpy() for s in shared]
        if not all(map(len, cells)):
            absent = ", ".join(str(s) for s in shared if s not in set(group["staleness"]))
            lacking.append([*names, len(group), f"no run at s = {absent}", "–", "–", _collapsed(group)])
            continue
        score = statistics.estimate_over_strata(cells)
        worst = min(float(statistics.iqm(cell)) for cell in cells)
        bases = [base.loc[base["staleness"] == s, "last_k"].to_numpy() for s in shared]
        better: object = "–"
        if all(map(len, bases)) and not (algorithm == "grpo" and group["reference"].all()):
            better = statistics.probability_of_improvement(cells, bases)
        inside = group[group["staleness"].isin(shared)]
        ranked.append((score.value, [*names, len(inside), score, worst, better, _collapsed(inside)]))
    ranked.sort(key=lambda item: -item[0])
    columns = ["algorithm", *(["setting"] if several else []), "runs", "final accuracy", "worst s"]
    columns += ["P(beats GRPO)", "collapsed"]
    caption = (
        f"{metric}, mean of the last three evaluations, averaged over s = {', '.join(map(str, shared))} (each "
        f"counts alike; stratified bootstrap). worst s: the lowest of them. {FEW_SEEDS} {UNTUNED}"
    )
    return Table(columns, [row for _, row in ranked] + lacking, caption)


def _shared_staleness(runs: pd.DataFrame) -> list[int]:
    """The staleness values > 0 that at least half of the methods have (0 if none was run with staleness)."""
    counts = runs[runs["staleness"] > 0].groupby("staleness")["algorithm"].nunique()
    enough = counts[counts >= counts.max() / 2] if len(counts) else counts
    return [int(s) for s in sorted(enough.index)] or [0]


def _groups(runs: pd.DataFrame, several: bool) -> list[tuple[list[object], pd.DataFrame]]:
    """Series in the palette's order, with the cells that name them."""
    result = []
    for key, group in runs.groupby(["algorithm", "staleness", "setting"], observed=True):
        algorithm, staleness, setting = map(str, key)
        names: list[object] = [style.look(algorithm).label, int(staleness)]
        result.append(((_rank(algorithm), int(staleness), setting), names + [setting or "reference"] * several, group))
    return [(names, group) for _, names, group in sorted(result, key=lambda item: item[0])]


def _names(several: bool) -> list[str]:
    return ["algorithm", "s", *(["setting"] if several else [])]


def _several_settings(runs: pd.DataFrame) -> bool:
    return bool((runs.groupby("algorithm", observed=True)["setting"].nunique() > 1).any())


def _collapsed(group: pd.DataFrame) -> str:
    onsets = sorted(group["collapse"].dropna())
    text = f"{len(onsets)}/{len(group)}"
    return text + (f" at {', '.join(f'{u:.0f}' for u in onsets)}" if onsets else "")


def _rank(algorithm: str) -> tuple[int, str]:
    names = list(style.LOOKS)
    return (names.index(algorithm) if algorithm in names else len(names), algorithm)


# ------------------------------------------------------------------------------------------- writers


def texts(table: Table) -> list[list[str]]:
    """Every cell as text, row by row."""
    return [[_text(cell) for cell in row] for row in table.rows]


def markdown(table: Table) -> str:
    """GitHub's pipes, with the caption below."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in texts(table)]
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
    frame(table).to_csv(paths[2], index=False, float_format="%.6g", lineterminator="\n")
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
