"""Tables keep their numbers, and say them in Markdown, LaTeX and CSV."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import synthetic

from analysis import runs, statistics, tables


def test_summary_has_a_row_a_series_with_n_and_intervals(study):
    table = tables.summary(study)
    assert len(table.rows) == 20 and table.columns[:3] == ["algorithm", "s", "n"]
    cell = table.rows[0][table.columns.index("best")]
    assert isinstance(cell, statistics.Estimate) and cell.n == 3 and cell.low <= cell.value <= cell.high
    collapsed = {(row[0], row[1]): row[table.columns.index("collapsed")] for row in table.rows}
    assert collapsed["no trust region", 256].startswith("3/3 at")
    assert collapsed["M2PO", 256] == "0/3"


def test_table1_has_a_column_a_benchmark_and_their_average(tmp_path):
    splits = ("validation", "aime24", "math500")
    synthetic.write_study(tmp_path, ("grpo", "m2po"), (0, 64), (1, 2, 3), updates=8, eval_every=4, splits=splits)
    table = tables.table1(runs.load([tmp_path]))
    assert table.columns == ["algorithm", "s", "n", "aime24", "math500", "average"]
    a, b, average = (cell.value for cell in table.rows[0][3:])
    assert average == pytest.approx((a + b) / 2)


def test_leaderboard_ranks_by_the_staleness_values_shared(study):
    table = tables.leaderboard(study)
    assert [row[0] for row in table.rows] == ["M2PO", "TIS", "GRPO", "GSPO", "no trust region"]
    assert "s = 16, 64, 256" in table.caption
    better = [row[table.columns.index("P(beats GRPO)")] for row in table.rows]
    assert better[0].value == 1.0 and better[2] == "–"


def test_leaderboard_puts_methods_without_all_cells_last(tmp_path):
    synthetic.write_study(tmp_path / "a", ("grpo",), (16, 64), (1, 2), updates=8)
    synthetic.write_run(tmp_path / "b", "m2po", 64, updates=8)
    last = tables.leaderboard(runs.load([tmp_path])).rows[-1]
    assert last[:3] == ["M2PO", 1, "no run at s = 16"]


def test_the_three_formats_say_the_same(study, tmp_path):
    table = tables.summary(study)
    markdown, latex, csv = (path.read_text() for path in tables.write(table, tmp_path, "summary"))
    assert markdown.count("\n|") == len(table.rows) + 1
    assert r"\toprule" in latex and r"\bottomrule" in latex and latex.count(r"\\") == len(table.rows) + 1
    assert r"sampled\_accuracy" in latex and "%" not in latex.split("\n", 1)[1].replace(r"\%", "")
    rows = pd.read_csv(tmp_path / "summary.csv")
    assert {"best", "best low", "best high", "best n"} <= set(rows.columns)
    assert np.isclose(rows["best"][0], table.rows[0][table.columns.index("best")].value)
    assert csv.count("\n") == len(table.rows) + 1


def test_hostile_cells_break_neither_markdown_nor_latex():
    table = tables.Table(["a|b", "c_d"], [["x|y", "50 % & \\evil{$}"]], "a_caption")
    assert "x\\|y" in tables.markdown(table)
    assert r"50 \% \& \textbackslash{}evil\{\$\}" in tables.latex(table)
