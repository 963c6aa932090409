"""NaN, infinities and exploding losses: the update is refused and kept as evidence, the run ends, other cells go on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT, SMALL, manifest, only_run, read_rows

Command = Callable[..., subprocess.CompletedProcess[str]]

TASK = """
import dataclasses
from harness.tasks.carry import Carry

class Bad(Carry):
    def grade(self, problems, responses):
        grades = super().grade(problems, responses)
        return [dataclasses.replace(g, reward=float("{value}")) for g in grades]
"""


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_bad_reward_ends_the_run_with_evidence(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    (tmp_path / "bad_task.py").write_text(TASK.format(value=value))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    given = ("task._target_=bad_task.Bad", "allow_code=[bad_task]", "learner.max_refused_in_a_row=3", *SMALL)
    done = command(*given)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    run = only_run(tmp_path)
    assert manifest(run)["status"] == "failed"
    assert manifest(run)["error"].startswith("non-finite: 3 updates refused in a row, the last because rewards has")
    assert [row["refused"] for row in read_rows(run / "metrics.jsonl")] == [1.0, 1.0, 1.0]
    evidence = json.loads((run / "refused" / "000001.json").read_text())
    assert evidence["tensors"]["rewards"]["non_finite"] == 8
    assert load_file(run / "refused" / "000001.safetensors")["rewards"].shape == (8,)


def test_bad_weights_end_the_run_and_not_the_sweep(tmp_path: Path, command: Command) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(ROOT / "harness" / "assets" / "carry", broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    done = command("-m", f"model.path={broken},harness/assets/carry", *SMALL)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    states = sorted(json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/carry/*/manifest.json"))
    assert states == ["failed", "finished"]
    assert "failed: " in done.stderr


def test_an_exploding_loss_is_refused_and_ends_the_run(tmp_path: Path, command: Command) -> None:
    done = command("learner.max_loss=1e-12", "learner.max_refused_in_a_row=2", "staleness=4", *SMALL)
    assert done.returncode == 1
    assert "exceeds learner.max_loss" in manifest(only_run(tmp_path))["error"]
