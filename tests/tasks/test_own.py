"""The documented reward and task from outside, executed as written, and what such a reward may do."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.command import grade
from harness.command.plan import plan
from harness.errors import UserError
from harness.rewards import pool
from harness.rewards.reward import Reward
from harness.tasks.corpus import Corpus
from harness.types import Problem
from tests.conftest import ROOT, manifest, only_run, read_rows
from tests.tiny import write_jsonl

PAGE = (ROOT / "docs" / "tasks.md").read_text()
QUICK = ("rollout.prompts_per_step=8", "rollout.group_size=4", "updates=8", "eval.every=8", "checkpoint_every=8",
         "eval.samples=1", "rollout.max_new_tokens=8", "tracking=none")  # fmt: skip


def block(language: str, word: str) -> str:
    """The block of the page that holds a word."""
    found = (text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if word in text)
    return next(found)


def words_of(word: str) -> list[str]:
    """The arguments of the page's command that holds a word."""
    page = PAGE.replace("\\\n", " ")  # commands of several lines
    (command,) = re.findall(rf"^PYTHONPATH=\$PWD python run\.py (.*{word}.*)$", page, re.M)
    return shlex.split(command)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder whose modules can be imported, here and in the processes started from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool._shared.cache_clear()  # workers see the path that they were started with
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def test_the_documented_reward_runs(here: Path, command: Callable) -> None:
    (here / "my_rewards.py").write_text(block("python", "def score"))
    rows = [{"question": f"How many? {i}", "answer": str(i % 10)} for i in range(300)]
    write_jsonl(here / "train.jsonl", rows)
    words = [word for word in words_of("my_rewards.score") if not word.startswith("model")]
    result = command(*words, "model=gsm8k_small", "task.validation_problems=8", *QUICK)
    assert result.returncode == 0, result.stderr
    rows = read_rows(only_run(here) / "metrics.jsonl")
    assert len(rows) == 8 and all({"reward/right", "reward/brief"} <= set(row) for row in rows)
    for batch in (rows[:4], rows[4:]):  # the parts are of the batch, the reward of each of its four mini-batches
        mean = sum(row["reward"] for row in batch) / 4
        assert mean == pytest.approx(batch[0]["reward/right"] + batch[0]["reward/brief"], abs=1e-6)
    assert "package my_rewards" in manifest(only_run(here))["depends_on"]


def test_a_reward_that_fails_is_said_once(here: Path, command: Callable) -> None:
    code = "def score(problem, response, row):\n    if response: raise KeyError('nothing')\n    return 0\n"
    (here / "my_failing.py").write_text(code)
    write_jsonl(here / "train.jsonl", [{"question": f"How many? {i}", "answer": "5"} for i in range(60)])
    words = ["task=gsm8k", "task.path=train.jsonl", "task.reward=my_failing.score", "allow_code=[my_failing]"]
    result = command(*words, "model=gsm8k_small", "task.validation_problems=8", *QUICK)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the grader failed over") == 1
    failures = {row["failure"] for row in read_rows(only_run(here) / "samples.jsonl") if row["response"]}
    assert failures == {"KeyError"}


def test_the_documented_task_runs(here: Path, command: Callable) -> None:
    code = block("python", "class Parity")
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 16
    (here / "my_tasks.py").write_text(code)
    (here / "my_conf" / "task").mkdir(parents=True)
    (here / "my_conf" / "task" / "parity.yaml").write_text(block("yaml", "my_tasks"))
    result = command(*words_of("task=parity"), *QUICK)
    assert result.returncode == 0, result.stderr
    (evaluation,) = [row for row in read_rows(only_run(here) / "eval.jsonl") if row["update"] == 8]
    assert evaluation["split"] == "validation" and evaluation["n"] == 16


def graded(here: Path, code: str, response: str = "5", row: dict[str, Any] | None = None) -> Any:
    """The grade that a module's function `score` gives, from the grading processes."""
    name = f"my_module_{abs(hash(code))}"
    (here / f"{name}.py").write_text(code)
    problem = Problem("id", "prompt", "", {"problem": "text", "row": row or {}})
    (grade,) = Reward(f"{name}.score", timeout_s=1.0, workers=1).grade([problem], [response])
    return grade


@pytest.mark.parametrize(
    ("returned", "reward", "correct", "parts"),
    [
        ("0.5", 0.5, False, {}),
        ("1", 1.0, True, {}),
        ("-3.5", -3.5, False, {}),
        ("True", 1.0, True, {}),
        ("{'a': 1, 'b': .25}", 1.25, True, {"a": 1, "b": 0.25}),
        ("{'score': .75, 'acc': 1}", 0.75, False, {"score": 0.75, "acc": 1}),
        ("{'reward': .5, 'correct': 1}", 0.5, True, {"reward": 0.5, "correct": 1}),
    ],
)
def test_what_a_reward_may_return(
    here: Path, returned: str, reward: float, correct: bool, parts: dict[str, float]
) -> None:
    grade = graded(here, f"def score(problem, response, row): return {returned}")
    assert (grade.reward, grade.correct, grade.failure, grade.parts) == (reward, correct, "", parts)


FAILS = {
    "raises": ("def score(problem, response, row): return row['nothing']", "KeyError"),
    "returns text": ("def score(problem, response, row): return 'five'", "ValueError"),
    "returns nothing": ("def score(problem, response, row): pass", "ValueError"),
    "is not a number": ("def score(problem, response, row): return float('nan')", "ValueError"),
    "returns no part": ("def score(problem, response, row): return {}", "ValueError"),
    "hangs": ("def score(problem, response, row):\n    while True: pass", "timeout"),
    "exits": ("def score(problem, response, row): raise SystemExit", "crash"),
    "writes": ("def score(problem, response, row): open('pwned', 'w')", "PermissionError"),
    "opens a socket": ("import socket\ndef score(problem, response, row): socket.socket()", "PermissionError"),
    "starts a program": (
        "import os\ndef score(problem, response, row): os.execv('/bin/true', ['x'])",
        "PermissionError",
    ),
}


@pytest.mark.parametrize("kind", FAILS)
def test_a_reward_that_fails_costs_its_own_answer(here: Path, kind: str) -> None:
    code, failure = FAILS[kind]
    grade = graded(here, code)
    assert (grade.reward, grade.correct, grade.failure) == (0.0, False, failure)
    assert not (here / "pwned").exists()


def test_a_reward_may_read_files_and_gets_what_it_was_promised(here: Path) -> None:
    (here / "table.txt").write_text("7")
    code = f"def score(problem, response, row): return [problem, response, row, open('{here}/table.txt').read()] == "
    assert graded(here, code + "['text', '5', {'k': [1]}, '7']", row={"k": [1]}).correct


def test_a_reward_that_cannot_be_used_is_refused_in_one_line(here: Path) -> None:
    write_jsonl(here / "train.jsonl", [{"question": f"q {i}", "answer": "#### 5"} for i in range(8)])
    (here / "my_broken.py").write_text("def score(problem, response, row): return row['nope']\nnumber = 5\n")
    words = ["task=gsm8k", "task.path=train.jsonl", "task.validation_problems=2", "model=gsm8k_small", "tracking=none"]
    for reward, allowed, message in (
        ("my_broken.score", "", r"code from outside; to run it add allow_code=\[my_broken\]"),
        ("my_broken.scroe", "my_broken", "cannot be imported .*has no attribute 'scroe'"),
        ("my_nothing.score", "my_nothing", "cannot be imported .*No module named.*; install it, or type PYTHONPATH="),
        ("my_broken.number", "my_broken", "not a function"),
        ("my_broken.score", "my_broken", "fails on an empty response to the first problem .KeyError: 'nope'"),
        ("vibes", "", "expected one of math, gsm8k, exact, or a function of your own"),
    ):
        with pytest.raises(UserError, match=message) as refusal:
            plan([*words, f"task.reward={reward}", f"allow_code=[{allowed}]"])
        assert "\n" not in str(refusal.value)


def test_the_documented_reward_is_tried_on_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "my_rewards.py").write_text(block("python", "def score"))
    (command,) = re.findall(r"`python -m harness.grade (--reward my_rewards.score .*)` tries it", PAGE)
    assert grade.main(shlex.split(command)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "1.1" and said[1].split() == ["right", "1.0"] and said[2].split() == ["brief", "0.1"]
    assert grade.main([*shlex.split(command), "--row", "{}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("0\nerror") and "'answer'" in said and "KeyError" in said
    for words, message in (
        (["--allow-code", "my_other"], "add --allow-code my_rewards"),
        (["--reward", "x"], "expected one"),
    ):
        assert grade.main([*shlex.split(command), *words]) == 2
        assert message in capsys.readouterr().err


def test_rows_need_no_answer(here: Path) -> None:
    path = write_jsonl(here / "train.jsonl", [{"problem": f"say {i}"} for i in range(6)])
    (here / "my_free.py").write_text("def score(problem, response, row): return len(response)\n")
    task = Corpus(path=str(path), reward="my_free.score", validation_problems=2)
    assert [grade.reward for grade in task.grade(task.split("validation"), ["abc", ""])] == [3.0, 0.0]
