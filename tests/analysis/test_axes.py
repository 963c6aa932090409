"""Any key of the configuration as an axis: of figures, tables, filters and of the report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import synthetic

import analysis
from analysis import __main__ as cli
from analysis import axes, figures, findings, leaderboard, report, runs, tables
from analysis.errors import AnalysisError

PAGE = Path(__file__).parents[2] / "docs" / "analysis.md"
SHORT = {"updates": 8, "eval_every": 4}


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """ε × learning rate at one staleness, two seeds: eight runs of one method."""
    root = tmp_path_factory.mktemp("search")
    for seed in (1, 2):
        for lr in (1e-5, 1e-4):
            for e in (0.1, 0.2):
                synthetic.write_run(root / f"{lr}-{e}-{seed}", "grpo", 64, seed, **SHORT,
                                    learner__lr=lr, algo__epsilon_low=e, algo__epsilon_high=e)  # fmt: skip
    return root


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """After tuning: each method and staleness at a learning rate of its own, three seeds."""
    root = tmp_path_factory.mktemp("tuned")
    rates = {("grpo", 0): 1e-4, ("grpo", 64): 1e-5, ("m2po", 0): 1e-4, ("m2po", 64): 3e-5}
    for (name, staleness), lr in rates.items():
        for seed in (1, 2, 3):
            synthetic.write_run(root / f"{name}{staleness}-{seed}", name, staleness, seed, **SHORT, learner__lr=lr)
    return runs.load([root])


def test_axes_are_what_differs_within_a_method_and_keys_that_go_together_count_once(search, study, tuned):
    assert axes.axes(runs.load([search])) == ["algo.epsilon_high", "learner.lr"]
    assert axes.axes(study) == axes.axes(tuned) == ["algorithm", "staleness"]


def test_a_search_over_two_keys_shows_all_of_its_runs(search):
    found = runs.load([search])
    drawn = dict(figures.draw(found))["outcome_by_axis"]
    assert drawn.data["n"].tolist() == [2] * 4 and {"algo.epsilon_high", "learner.lr"} <= set(drawn.data)
    kept = {name for name, each in figures.draw(found) if not isinstance(each, str)}
    assert {"outcome_by_axis", "accuracy_by_setting"} <= kept and len(kept) < 8
    table = tables.grouped(found, ["learner.lr", "algo.epsilon_low"])
    assert [row[2] for row in table.rows] == [2] * 4 and table.rows[0][3].value >= table.rows[-1][3].value
    assert {row[1] for row in tables.summary(found).rows} >= {64}
    settings = [row[2] for row in tables.summary(found).rows]
    assert sum(text.endswith("(reference)") and "learner.lr=" in text for text in settings) == 1


def test_a_search_whose_ends_look_alike_has_no_highest(search, monkeypatch):
    found = runs.load([search])
    table = axes.table
    monkeypatch.setattr(axes, "table", lambda *given: table(*given).assign(value=[0.0889, 0.0891, 0.0893, 0.0889]))
    assert "is 0.089 at every one, to three places" in findings.answer(found)


def test_the_report_of_a_search_follows_its_axes(search, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", {"outcome_by_axis": figures.FIGURES["outcome_by_axis"]})
    found = runs.load([search])
    page = report.page(found)
    assert "<h1>Accuracy by algo.epsilon_high, learner.lr (carry)</h1>" in page
    answer = findings.answer(found)
    assert re.match(
        r"Of 4 combinations of algo.epsilon_high, learner.lr, area under the curve .* is highest, 0", answer
    )
    assert "not tested, since all were looked at" in answer and answer in page
    assert page.index('class="answer"') < page.index("figure-outcome_by_axis") < page.index("<table>")


def test_any_column_can_be_x_hue_or_group(search, tmp_path, capsys):
    out = str(tmp_path / "f")
    chosen = ["--x", "algo.epsilon_low", "--hue", "seed", "--group", "learner.lr"]
    assert cli.main(["figures", str(search), "--only", "outcome_by_axis", "--out", out, *chosen]) == 0
    assert len((tmp_path / "f/outcome_by_axis.csv").read_text().splitlines()) == 1 + 8
    head = (tmp_path / "f/outcome_by_axis.csv").read_text().splitlines()[0]
    assert head.startswith("algo.epsilon_low,seed,learner.lr")
    assert cli.main(["table", str(search), "--group", "learner.lr"]) == 0
    assert "Means are also over algo.epsilon_high, which differs." in capsys.readouterr().out
    assert cli.main(["table", str(search), "--group", "learner.lr,algo.epsilon_low"]) == 0
    assert "Means are also over" not in capsys.readouterr().out
    assert cli.main(["figures", str(search), "--out", out, "--only", "outcome_by_axis", "--x", "learner.rate"]) == 2
    assert "no column of runs or key of the configuration named 'learner.rate'" in capsys.readouterr().err


def test_settings_chosen_for_each_method_are_compared_and_said(tuned):
    assert tuned.used["reference"].all() and set(tuned.used["setting"]) == {""}
    table = leaderboard.leaderboard(tuned)
    assert len(table.rows) == 2 and "Each row at its own learner.lr." in table.caption
    drawn = dict(figures.draw(tuned, ["accuracy_vs_updates"]))["accuracy_vs_updates"]
    assert "Each method and staleness at its own learner.lr." in drawn.caption


def test_the_example_of_the_page_runs(study_folder, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(study_folder)
    held: dict = {}
    exec(code, held)
    assert (tmp_path / "accuracy.png").stat().st_size and "learner.lr" in held["runs"]
    assert len(held["runs"]) == 60 and analysis.load(study_folder).used.shape[0] == 60


def test_one_path_is_one_path(tmp_path):
    with pytest.raises(AnalysisError, match="no run found: nowhere is neither"):
        analysis.load("nowhere")
