"""`mode=evaluate checkpoint=RUN`: the run's own task, prompt and lengths, and the checkpoint that was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.command.cell import run_cell
from harness.command.evaluated import best
from harness.command.plan import plan
from harness.config import Config
from harness.errors import UserError
from tests.conftest import manifest, read_rows

FEW = ("tracking=none", "eval.samples=2", "rollout.prompts_per_step=4", "rollout.group_size=2")
TASK = ("task.terms=4", "task.validation_problems=8", "task.test_problems=8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run with a task, lengths and checkpoints of its own."""
    typed = [*FEW, *TASK, f"runs_dir={tmp_path_factory.mktemp('runs')}", "rollout.max_new_tokens=20", "updates=12",
             "eval.every=4", "checkpoint_every=4", "record.keep_checkpoints=all", "learner.lr=1e-3"]  # fmt: skip
    (config,) = plan(typed).cells
    assert run_cell(config) == "finished"
    return config


def planned(*words: Any) -> Config:
    return plan(["mode=evaluate", "tracking=none", "eval.samples=2", *map(str, words)]).cells[0]


def test_an_evaluation_is_what_the_run_itself_measured(tmp_path: Path, monkeypatch: Any, trained: Config) -> None:
    monkeypatch.chdir(tmp_path)
    found = planned(f"checkpoint={trained.folder}")
    number = best(trained.folder)
    assert found.checkpoint == f"{trained.folder}/checkpoints/{number:06d}"
    assert found.task == trained.task and found.rollout.max_new_tokens == 20
    assert found.folder.name.startswith(f"evaluate-{trained.folder.name}-{number:06d}-")
    assert run_cell(found) == "finished"
    measured = [row for row in read_rows(trained.folder / "eval.jsonl") if row["update"] == number]
    assert read_rows(found.folder / "eval.jsonl") == measured
    assert manifest(found.folder)["task"] == "carry"


def test_another_checkpoint_or_another_task_can_be_named(trained: Config) -> None:
    run = f"checkpoint={trained.folder}"
    assert planned(run, "checkpoint_at=last").checkpoint.endswith("/000012")  # type: ignore[union-attr]
    assert planned(run, "checkpoint_at=8").checkpoint.endswith("/000008")  # type: ignore[union-attr]
    named = planned(f"{run}/checkpoints/000004")
    assert named.task == trained.task and named.checkpoint.endswith("/000004")  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"has no checkpoint of update 7; it has 4, 8, 12; expected best, last"):
        planned(run, "checkpoint_at=7")
    other = planned(run, "task.terms=5", "rollout.max_new_tokens=30")
    assert other.task == trained.task | {"terms": 5} and other.rollout.max_new_tokens == 30
    bandit = planned(run, "task=bandit")
    assert bandit.choices["task"] == "bandit" and bandit.rollout.max_new_tokens == 24


def test_a_run_that_cannot_be_read(tmp_path: Path, trained: Config) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"task": "carry", "status": "finished"}))
    with pytest.raises(UserError, match="a run without checkpoints"):
        planned(f"checkpoint={run}")
    (run / "checkpoints").symlink_to(trained.folder / "checkpoints")
    for text in ("", "[", "task: 3"):
        (run / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=r"its config\.yaml cannot be read"):
            planned(f"checkpoint={run}", "checkpoint_at=last")
