"""`mode=evaluate checkpoint=RUN`: the run's own task, prompt and lengths, and the checkpoint that was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.command.cell import run_cell
from harness.command.evaluated import best, chosen, inherit
from harness.command.plan import plan
from harness.command.status import look
from harness.config import Config
from harness.errors import UserError
from harness.records import fork
from harness.records.limits import read_yaml
from harness.records.secrets import recorded
from harness.records.tail import last_update
from harness.tracking import entries
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
    said = manifest(found.folder)
    assert (said["task"], said["algorithm"], said["staleness"], said["updates"]) == ("carry", "evaluation", None, None)
    assert look(found.folder).setting == "evaluation seed=1"
    shown = entries.params(read_yaml(found.folder / "config.yaml"), said["roles"])
    assert shown["checkpoint"] == found.checkpoint and shown["task.terms"] == "4"
    assert not [name for name in shown if name.startswith(("algo", "lag", "learner", "staleness", "updates"))]


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


def test_what_the_environment_said_is_asked_of_it_again(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "checkpoints" / "000008").mkdir(parents=True)
    (tmp_path / "checkpoints" / "000008" / "checkpoint.json").touch()
    (tmp_path / "manifest.json").write_text(json.dumps({"task": "gsm8k"}))
    text = "task: {path: '${oc.env:LAGRANGE_TEST_DATA}/x.jsonl', size: 3}\nmodel: {system_prompt: '${task.path}'}\n"
    (tmp_path / "config.yaml").write_text(text + "rollout: {}\ntracking: {uri: '${oc.env:LAGRANGE_TEST_NOWHERE}'}\n")
    config = Config(mode="evaluate", checkpoint=str(tmp_path), checkpoint_at="last", choices={"task": "carry"})
    config.model.path = config.rollout._target_ = "any"
    with pytest.raises(UserError, match=r"checkpoint=.*LAGRANGE_TEST_DATA"):
        inherit(config, [])
    monkeypatch.setenv("LAGRANGE_TEST_DATA", "/data")
    taken = inherit(config, [])
    assert taken.task == {"path": "/data/x.jsonl", "size": 3} and taken.model.system_prompt == "/data/x.jsonl"
    assert recorded(taken)["task"]["path"] == "${oc.env:LAGRANGE_TEST_DATA}/x.jsonl"
    assert recorded(taken)["model"]["system_prompt"] == "${task.path}"
    monkeypatch.delenv("LAGRANGE_TEST_DATA")
    config.task, config.model.system_prompt = {"path": "/mine"}, "mine"
    assert inherit(config, ["task.path=/mine", "model.system_prompt=mine"]).task == {"path": "/mine", "size": 3}
    (tmp_path / "config.yaml").write_text("task: {}\nmodel: {attention: [1]}\nrollout: {max_new_tokens: many}\n")
    with pytest.raises(UserError, match=r"cannot be taken over: (model|rollout)\.(attention|max_new_tokens): "):
        inherit(config, [])


def test_damaged_scores_and_strange_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("000008", "000012", "0000x8", "8.old", "9²"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "checkpoint.json").touch()
    odd = [[1], {"a": 1}, "x", None, True, float("nan"), float("inf"), 10**400, -1]
    rows = [{"split": "validation", "update": update, "sampled_accuracy": 0.9} for update in odd if update != 10**400]
    rows += [{"split": "validation", "update": 12, "sampled_accuracy": score} for score in odd]
    rows += [{"split": "validation", "update": 8, "sampled_accuracy": 0.5}, {"split": "validation"}]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "metrics.jsonl").write_text('{"update": [1]}\n')
    assert best(tmp_path) == chosen(tmp_path, "best") == 8 and chosen(tmp_path, "last") == 12
    assert last_update(tmp_path) == 0
    assert fork.place(f"{tmp_path}@8") == (tmp_path, 8)
    for other in ("9", "²"):
        with pytest.raises(UserError, match="there are 8, 12 "):
            fork.place(f"{tmp_path}@{other}")
