"""Sweeps: finished cells are skipped, interrupted ones resumed, failed ones retried on request, none run twice."""

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

from harness.command.cell import run_cell
from harness.command.plan import plan
from harness.progress import Progress
from tests.conftest import ROOT, SMALL, manifests

Command = Callable[..., subprocess.CompletedProcess[str]]
SWEEP = ("-m", "algo=grpo,m2po", "staleness=0,4", *SMALL)


def popen(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_sweep_carries_on_and_then_has_nothing_to_do(tmp_path: Path, command: Command) -> None:
    first = popen(tmp_path, *SWEEP)
    while first.poll() is None and len(manifests(tmp_path)) < 2:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = {name for name, m in manifests(tmp_path).items() if m["status"] == "finished"}
    assert before and len(before) < 4
    done = command(*SWEEP)
    assert done.returncode == 0, done.stderr
    assert {m["status"] for m in manifests(tmp_path).values()} == {"finished"} and len(manifests(tmp_path)) == 4
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/carry/*/metrics.jsonl")}
    assert command(*SWEEP).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/carry/*/metrics.jsonl")} == stamps


def test_two_launchers_never_run_a_cell_twice(tmp_path: Path) -> None:
    launchers = [popen(tmp_path, *SWEEP) for _ in range(2)]
    deadline = time.monotonic() + 240
    while [m["status"] for m in manifests(tmp_path).values()] != ["finished"] * 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    for launcher in launchers:  # what they draw afterwards is not what is tested here
        launcher.kill()
        launcher.communicate()
    found = manifests(tmp_path)
    assert len(found) == 4 and {m["status"] for m in found.values()} == {"finished"}
    assert [m["resumed"] for m in found.values()] == [[]] * 4
    for path in tmp_path.glob("runs/carry/*/metrics.jsonl"):
        assert [json.loads(line)["update"] for line in path.read_text().splitlines()] == list(range(1, 17))


def test_failed_cells_are_named_left_alone_and_retried_on_request(tmp_path: Path, command: Command) -> None:
    given = ("learner.max_loss=1e-12", "learner.max_refused_in_a_row=2", *SMALL)
    assert command(*given).returncode == 1
    (failed,) = manifests(tmp_path)
    again = command(*given)
    assert again.returncode == 1 and failed in again.stderr and "exceeds learner.max_loss" in again.stderr
    assert manifests(tmp_path)[failed]["resumed"] == []
    assert command(*given, "retry_failed=true").returncode == 1
    assert len(manifests(tmp_path)[failed]["resumed"]) == 1


def test_eight_cells_at_once_finish(tmp_path: Path, command: Command) -> None:
    done = command("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=8", "seed=1,2,3,4,5,6,7,8", *SMALL)
    assert done.returncode == 0, done.stderr
    assert [m["status"] for m in manifests(tmp_path).values()] == ["finished"] * 8


def test_a_cell_whose_folder_the_disk_refuses_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Progress, "warn", lambda _, text: said.append(text))
    first, second = plan(
        ["-m", *(word for word in SMALL if "updates" not in word), "updates=8", "seed=1,2", f"runs_dir={tmp_path}"]
    ).cells
    (first.folder / "lock").mkdir(parents=True)
    assert [run_cell(first), run_cell(second)] == ["failed", "finished"]
    (line,) = [text for text in said if "failed" in text]
    assert "\n" not in line and str(first.folder / "lock") in line
