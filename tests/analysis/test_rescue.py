"""Until when a switch rescues a collapsing run: what the bisection asks for, and one whole search with real forks."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from analysis import __main__ as cli
from analysis import rescue
from analysis.errors import AnalysisError
from harness.command.cell import run_cell
from harness.command.plan import plan
from tests.conftest import SMALL


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
def test_a_bisection_finds_the_last_rescue_in_few_runs(n: int) -> None:
    checkpoints = list(range(4, 4 * n + 4, 4))
    for last in [0, *checkpoints]:
        curve = np.array([]), np.array([])
        search = rescue.Search(rescue.Parent(Path("run"), checkpoints, 100, curve, 0.1, "accuracy", 0.5), "algo=gspo")
        while (update := rescue.due(search, search.ends)) is not None:
            search.ends[update] = 0.5 if update <= last else 0.49
        assert search.last == (last or None)
        assert search.first_lost == (last + 4 if last < 4 * n else None)
        assert len(search.ends) <= math.ceil(math.log2(n + 1))


@pytest.mark.parametrize(
    ("switch", "why"),
    [
        ("", "expected KEY=VALUE"),
        ("gspo", "expected KEY=VALUE"),
        ("-m staleness=0,4", "expected KEY=VALUE"),
        ("algo='gspo", "No closing quotation"),
        ("algo=gspo updates=48", "updates is the same for every fork"),
        ("+fork=run@8", "fork is the same for every fork"),
    ],
)
def test_a_switch_that_is_none_is_refused(switch: str, why: str) -> None:
    with pytest.raises(AnalysisError, match=why):
        rescue.check_switch(switch)
    rescue.check_switch("algo=gspo algo.epsilon_low=.1")


def test_the_last_rescue_of_a_run_is_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rising = ("algo=grpo", "staleness=0", "updates=24", "learner.lr=1e-2", "learner.warmup=120")
    (config,) = plan([*SMALL, *rising, "eval.samples=2", "eval.greedy=false", "eval.validation_only=true",
                      "task.validation_problems=32", "record.keep_checkpoints=all"]).cells  # fmt: skip
    assert run_cell(config) == "finished"
    typed = ["fork", str(config.folder), "--switch", "learner.lr=1e-9", "--with", "tracking=none quiet=true"]
    assert cli.main([*typed, "--dry-run"]) == 0
    assert "1 switch over 2 checkpoints (8 to 16): at most 2 runs to update 24, about " in capsys.readouterr().err

    ended = []

    def here(words: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        ended.append(run_cell(plan(words).cells[0]))
        return 0

    anew = rescue.launch
    monkeypatch.setattr(rescue, "launch", lambda words: here(words) if ended else ended.append(anew(words)) or 0)
    assert cli.main(typed) == 0
    assert ended == [0, "finished"]
    table = pd.read_csv("forks/rescue.csv").iloc[0]
    assert (table["rescues until"], table["too late at"], table["runs"], table["updates"]) == (8, 16, 2, 16 + 8)
    curves = pd.read_csv("forks/rescue_curves.csv")
    assert set(curves["run"]) == {"parent", "fork at 8", "fork at 16"} and Path("forks/rescue_curves.png").is_file()

    capsys.readouterr()
    assert cli.main([*typed, "--dry-run"]) == 0 and "at most 0 runs" in capsys.readouterr().err
    assert cli.main(typed) == 0
    assert ended[2:] == ["skipped", "skipped"] and pd.read_csv("forks/rescue.csv").iloc[0].equals(table)

    monkeypatch.setattr(rescue, "launch", anew)
    assert cli.main([*typed[:-1], "learner.lrr=1"]) == 2
    assert "was refused, as it says above" in capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_rescued_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = synthetic.write_run(tmp_path / "run", "grpo", 64, 1, updates=40)
    rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]

    def refusal(*words: str) -> str:
        assert cli.main(["fork", str(folder), "--switch", "staleness=0", "--dry-run", *words]) == 2
        return capsys.readouterr().err

    assert "it did not fall below" in refusal()
    (folder / "eval.jsonl").write_text(
        "".join(json.dumps(row | {"sampled_accuracy": 0.5 if row["update"] < 40 else 0.0}) + "\n" for row in rows)
    )
    assert "record.keep_checkpoints=all" in refusal()
    assert "at most 1" in refusal("--share", "2")
    (folder / "eval.jsonl").write_text("".join(json.dumps(row | {"sampled_accuracy": 0.0}) + "\n" for row in rows))
    assert "nothing to be rescued to" in refusal()
    assert "have no greedy" in refusal("--metric", "greedy")
    assert "expected the folder of a run that has ended" in refusal_of(tmp_path, capsys)


def refusal_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["fork", str(folder), "--switch", "staleness=0"]) == 2
    return capsys.readouterr().err
