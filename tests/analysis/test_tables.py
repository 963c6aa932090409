"""Tables keep their numbers, and say them in Markdown, LaTeX and CSV."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import synthetic

from analysis import compare, leaderboard, runs, statistics, tables, tabular
from analysis.errors import AnalysisError
from analysis.inference import OTHER_SPAN


def test_summary_has_a_row_a_series_with_n_and_intervals(study):
    table = tables.summary(study)
    assert len(table.rows) == 20 and table.columns[:3] == ["algorithm", "s", "n"]
    cell = table.rows[0][table.columns.index("best")]
    assert isinstance(cell, statistics.Estimate) and cell.n == 3 and cell.low <= cell.value <= cell.high
    collapsed = {(row[0], row[1]): row[table.columns.index("collapsed")] for row in table.rows}
    assert collapsed["no trust region †", 256].startswith("3/3 at")
    assert collapsed["M2PO", 256] == "0/3"


def test_table1_has_a_column_a_benchmark_and_their_average(tmp_path):
    splits = ("validation", "aime24", "math500")
    synthetic.write_study(tmp_path, ("grpo", "m2po"), (0, 64), (1, 2, 3), updates=8, eval_every=4, splits=splits)
    table = tables.table1(runs.load([tmp_path]))
    assert table.columns == ["algorithm", "s", "n", "aime24", "math500", "average"]
    a, b, average = (cell.value for cell in table.rows[0][3:])
    assert average == pytest.approx((a + b) / 2)


def test_leaderboard_ranks_by_the_staleness_values_shared_and_claims_nothing_at_three_seeds(study):
    table = leaderboard.leaderboard(study)
    assert [row[0] for row in table.rows] == ["M2PO", "TIS", "GRPO", "GSPO", "no trust region †"]
    assert "s = 16, 64, 256" in table.caption and table.caption.startswith("Ranked by area under the curve of sampled")
    said = [row[table.columns.index("against GRPO")] for row in table.rows]
    assert said[2] == "–" and set(said) - {"–"} == {"n = 3 is too few for 4 comparisons"}


def test_leaderboard_puts_methods_without_all_cells_last(tmp_path):
    synthetic.write_study(tmp_path / "a", ("grpo",), (16, 64), (1, 2), updates=8)
    synthetic.write_run(tmp_path / "b", "m2po", 64, updates=8)
    last = leaderboard.leaderboard(runs.load([tmp_path])).rows[-1]
    assert last[:3] == ["M2PO", 1, "no run at s = 16"]


def test_a_winner_is_ahead_and_a_duplicate_under_another_name_is_no_comparison(tmp_path):
    for seed in range(1, 9):
        for name in ("grpo", "m2po", "gspo", "dppo"):
            same = {"final_weights_sha256": f"{seed:064x}"} if name in ("grpo", "gspo") else {}
            synthetic.write_run(tmp_path / f"{name}{seed}", name, 64, seed, updates=8, eval_every=4, manifest=same)
        for row in (tmp_path / f"gspo{seed}", tmp_path / f"grpo{seed}"):
            (row / "eval.jsonl").write_text((tmp_path / f"grpo{seed}" / "eval.jsonl").read_text())
    study = runs.load([tmp_path])
    table = leaderboard.leaderboard(study)
    said = {row[0]: row[table.columns.index("against GRPO")] for row in table.rows}
    assert said["GRPO = GSPO"] == "–" and said["M2PO"] == "ahead" and len(said) == 3
    assert "Holm over the 2 comparisons" in table.caption and "counted once: GRPO = GSPO." in table.caption
    assert [row[0] for row in tables.summary(study).rows] == ["M2PO", "GRPO = GSPO", "DPPO"]
    fewer = leaderboard.leaderboard(study.keep(study.runs[~study.runs["run"].isin(["gspo7", "gspo8"])]))
    said = {row[0]: row[fewer.columns.index("against GRPO")] for row in fewer.rows}
    assert said["GSPO"] == "the same run" and "Holm over the 2 comparisons" in fewer.caption
    assert "GRPO = GSPO at s = 64" in tables.summary(study).caption


def _curve(folder, values, drop=()):
    """Replaces the evaluations of a run by these accuracies, 4 updates apart; greedy is .3 lower."""
    rows = [{"update": 4 * i, "split": split, "sampled_accuracy": value, "greedy_accuracy": max(0.0, value - 0.3)}
            for i, value in enumerate(values) if i not in drop for split in ("validation", "test")]  # fmt: skip
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("lost", [(3, 4), (0, 1)])
def test_runs_evaluated_over_other_updates_are_not_compared(tmp_path, lost):
    """The two methods have the same curves: what was lost of one's evaluations must not make a winner."""
    for seed in range(1, 9):
        for name in ("grpo", "m2po", "tis"):
            folder = synthetic.write_run(tmp_path / f"{name}{seed}", name, 64, seed, updates=16, eval_every=4)
            _curve(folder, [0.1 * i + 0.01 * seed for i in range(5)], lost if name == "m2po" or seed == 8 else ())
    study = runs.load([tmp_path])
    table = leaderboard.leaderboard(study)
    row = {line[0]: dict(zip(table.columns, line, strict=True)) for line in table.rows}
    assert (row["M2PO"]["difference to GRPO"].n, row["TIS"]["difference to GRPO"].n) == (1, 8)
    assert row["M2PO"]["against GRPO"].startswith("n = 1 is too few") and row["TIS"]["difference to GRPO"].value == 0
    for made in (table, tables.summary(study), tables.grouped(study, ["algorithm"])):
        assert "0 to 16: 14 runs of GRPO, TIS" in made.caption and "not paired" in made.caption
    full = leaderboard.leaderboard(study.where(seed=3))
    assert {line[0]: line[full.columns.index("against GRPO")] for line in full.rows}["M2PO"] == OTHER_SPAN
    a, b = (study.where(algorithm=name, seed=3) for name in ("m2po", "grpo"))
    found = compare.compare(a, b)
    assert found.pairs == 0 and {claim.words for claim in found.claims.values()} == {OTHER_SPAN}


def test_the_leaderboard_shows_other_decodings_beside_the_one_that_ranks(tmp_path):
    for name, height in (("grpo", 0.4), ("m2po", 0.6)):
        _curve(synthetic.write_run(tmp_path / name, name, 64, updates=8, eval_every=4), [height] * 3)
    study = runs.load([tmp_path])
    table = leaderboard.leaderboard(study)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["algorithm"] == "M2PO" and row["greedy_accuracy"] == pytest.approx(0.3)
    other = leaderboard.leaderboard(study, "greedy_accuracy")
    assert "sampled_accuracy" in other.columns and "greedy_accuracy" not in other.columns
    assert compare.compare(study.where(algorithm="m2po"), study.where(algorithm="grpo")).metrics[
        "area greedy_accuracy"
    ][2].value == pytest.approx(0.2)


def test_an_axis_of_small_numbers_can_be_read(tmp_path):
    for lr in (1e-5, 3e-5):
        synthetic.write_run(tmp_path / str(lr), "m2po", 64, updates=8, eval_every=4, learner__lr=lr)
    study = runs.load([tmp_path])
    table = tables.grouped(study, ["algorithm", "learner.lr"])
    assert sorted(row[:2] for row in tabular.texts(table)) == [["M2PO", "1e-05"], ["M2PO", "3e-05"]]
    with pytest.raises(AnalysisError, match=r"nearest: used, seed, started$"):
        tables.grouped(study, ["sed"])


def test_without_grpo_nothing_is_tested_and_the_caption_says_so(tmp_path):
    synthetic.write_study(tmp_path, ("m2po", "tis"), (64,), (1, 2, 3), updates=8, eval_every=4)
    table = leaderboard.leaderboard(runs.load([tmp_path]))
    assert leaderboard.NO_BASELINE in table.caption and "sign-flip" not in table.caption


def test_decodings_stand_side_by_side_and_what_was_not_recorded_is_missing(study):
    table = tables.decodings(study)
    assert table.columns[3:] == ["sampled_accuracy", "greedy_accuracy", "accuracy_top_p_0.7", "pass_at_k.4"]
    first = tabular.texts(table)[0]
    assert first[5] == "–" and all(cell.startswith("0.") for cell in (first[3], first[4], first[6]))


def test_stability_says_how_far_accuracy_fell(study):
    table = tables.stability(study)
    rows = {(row[0], row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    fallen, steady = rows["no trust region †", 256], rows["M2PO", 256]
    assert fallen["runs fallen"] == "3/3" and fallen["updates to the fall"].value == 50
    assert fallen["largest drawdown"].value > 0.2 and 0.3 < fallen["share fallen"].value < 0.6
    assert steady["runs fallen"] == "0/3" and steady["updates to the fall"].value == 80
    assert np.isnan(steady["updates to the fall"].low), "no interval where nothing happened"
    assert steady["turnovers"] == 80 / 256 and "turnovers: updates / s" in table.caption


def test_the_three_formats_say_the_same(study, tmp_path):
    table = tables.summary(study)
    markdown, latex, csv = (path.read_text() for path in tabular.write(table, tmp_path, "summary"))
    assert markdown.count("\n|") == len(table.rows) + 1
    assert r"\toprule" in latex and r"\bottomrule" in latex and latex.count(r"\\") == len(table.rows) + 1
    assert r"sampled\_accuracy" in latex and "%" not in latex.split("\n", 1)[1].replace(r"\%", "")
    rows = pd.read_csv(tmp_path / "summary.csv")
    assert {"best", "best low", "best high", "best n"} <= set(rows.columns)
    assert np.isclose(rows["best"][0], table.rows[0][table.columns.index("best")].value)
    assert csv.count("\n") == len(table.rows) + 1


def test_hostile_cells_break_neither_markdown_nor_latex():
    table = tabular.Table(["a|b", "c_d"], [["x|y", "50 % & \\evil{$}"]], "a_caption, n < 3 <img src=x> [a](b)")
    markdown = tabular.markdown(table)
    assert "a\\|b" in markdown and "x\\|y" in markdown and r"n < 3 \<img src=x> [a]\(b)" in markdown
    assert r"50 \% \& \textbackslash{}evil\{\$\}" in tabular.latex(table)
