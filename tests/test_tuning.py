"""A tuning sweep as a user types it: rungs, a kill in the middle, nothing to do twice, and the final sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.command import launch, points
from harness.command.plan import plan
from harness.errors import UserError
from tests.conftest import ROOT, SMALL, manifest

FILE = {
    "settings": {k: yaml.safe_load(v) for k, v in (word.split("=") for word in SMALL)}
    | {"eval.every": 4, "eval.validation_only": True},
    "staleness": [4],
    "seeds": [101],
    "rungs": [8],
    "keep": 0.5,
    "methods": {
        "grpo": [{}, {"learner.lr": 1e-3}],
        "m2po": [{}, {"algo.m2_threshold": 0.01}],
        "clip_at_width": {"needs": ["m2po"], "points": [{}]},
    },
}


@pytest.fixture
def typed(tmp_path: Path) -> list[str]:
    return sweep_of(tmp_path, FILE)


def sweep_of(folder: Path, held: dict) -> list[str]:
    (folder / "own/sweep").mkdir(parents=True, exist_ok=True)
    (folder / "own/sweep/tiny.yaml").write_text("# Tiny.\n" + yaml.safe_dump(held, sort_keys=False))
    return ["sweep=tiny", f"hydra.searchpath=[file://{folder}/own]"]


def test_a_killed_tuning_carries_on_to_one_choice_and_its_final_sweep(
    tmp_path: Path, typed: list[str], command: Callable[..., subprocess.CompletedProcess[str]], monkeypatch
) -> None:
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *typed], cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while first.poll() is None and len(list(tmp_path.glob("runs/carry/*/manifest.json"))) < 3:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = command(*typed)
    assert done.returncode == 0, done.stderr
    assert "3 of 5 runs go on past update 8" in done.stderr and "5 cells: 3 finished, 2 paused" in done.stdout
    (sweep,) = tmp_path.glob("runs/sweeps/tiny-*")
    cells = json.loads((sweep / "sweep.json").read_text())["cells"]
    ended = [manifest(sweep / cell["folder"])["status"] for cell in cells]
    assert ended.count("paused") == 2 and ended[4] == "finished"
    assert all('"test"' not in file.read_text() for file in tmp_path.glob("runs/carry/*/eval.jsonl"))
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/carry/*/metrics.jsonl")}
    final = tmp_path / "own/sweep/tuned.yaml"
    chosen = subprocess.run([sys.executable, "-m", "analysis", "tune", str(sweep), "--final", str(final)],
                            cwd=ROOT, check=True, capture_output=True, text=True)  # fmt: skip
    assert "| GRPO" in chosen.stdout and "updates spent" in chosen.stdout
    monkeypatch.chdir(tmp_path)
    cells_now = plan(["sweep=tuned", typed[1]]).cells
    assert len(cells_now) == 3 * 12 and not cells_now[0].eval.validation_only
    planned = plan(typed)
    assert launch.due(planned, range(5), 8) == []  # all are there: nothing is run twice
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_the_command_line_chooses_among_methods_staleness_and_seeds(
    typed: list[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = plan([*typed, "algo=m2po,grpo", "staleness=0,8", "seed=5", "eval.every=8"]).cells
    assert len(cells) == 4 * 2 and {cell.seed for cell in cells} == {5} and {cell.staleness for cell in cells} == {0, 8}


def test_a_list_takes_every_staleness_that_a_run_takes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = {"grpo": [{}, {"staleness": "two_point:0:8:.50"}, {"staleness": 0}]}
    typed = sweep_of(tmp_path, {**FILE, "rungs": [], "staleness": [4, "uniform:0:8"], "methods": own})
    lags = [cell.staleness for cell in plan(typed).cells]
    assert lags == [4, "uniform:0:8"]  # neither of the others is among those of the file
    typed = sweep_of(tmp_path, {**FILE, "rungs": [], "staleness": [], "methods": {"grpo": own["grpo"][1:]}})
    assert [cell.staleness for cell in plan(typed).cells] == ["two_point:0:8:0.5", 0]
    assert [cell.staleness for cell in plan([*typed, "staleness=0,long_tail:4,two_point:0:8:0.5"]).cells] == [
        "two_point:0:8:0.5",
        0,
    ]
    with pytest.raises(UserError, match="staleness=sometimes: expected a number of updates, or a distribution"):
        plan([*typed, "staleness=sometimes"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": {"grpo": [{}], "m2po": [{}, {"learner.lr": 1e-4}]}}, "the same number of points.*grpo 1, m2po 2"),
        ({"methods": {"grpo": [{"learner.lr": 1e-4}]}}, "grpo: add the point {}: the method as published"),
        ({"methods": {"clip_at_width": {"needs": ["m2po"], "points": [{}]}}}, "needs m2po, which has no points"),
        ({"rungs": [6]}, "rungs=6: expected multiples of eval.every=4 below updates=16"),
        ({"rungs": [16]}, "rungs=16: expected"),
        ({"keep": 1.5}, "keep"),
        ({"stalenes": [4]}, "stalenes: no such key; did you mean staleness"),
    ],
)
def test_a_file_that_is_no_fair_tuning_is_refused(tmp_path: Path, change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(sweep_of(tmp_path, FILE | change))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("algo=gspo", "has no points of it"),
        ("learner.lr=1e-5", "lists what is varied"),
        ("eval.every=4,8", "lists what is varied"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(typed: list[str], word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan([*typed, word])


def test_a_listed_cell_is_planned_as_its_own_process_composes_it() -> None:
    """model=carry_rare follows from the seed."""
    planned = plan(["sweep=tune/study_rare", "algo=grpo", "staleness=64"])
    assert len({cell.model.path for cell in planned.cells}) == 3
    for cell, words in list(zip(planned.cells, planned.overrides, strict=True))[:5]:
        assert plan([*words, "hydra.mode=RUN"]).cells[0].folder == cell.folder


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps/sweep/tune").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_committed_tuning_gives_every_method_one_budget(file: Path) -> None:
    read = points.read(file)
    assert read.rungs and len({str(point) for own in read.methods.values() for point in own}) > 1
    assert all(len({str(point) for point in own}) == len(own) for own in read.methods.values())
