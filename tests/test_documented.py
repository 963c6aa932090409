"""The commands of the documentation, as they stand there, with tiny stand-ins for what cannot be fetched."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import analysis.__main__
from harness.command import grade, points
from harness.command.cell import run_cell
from harness.command.compose import compose_cells
from harness.command.plan import plan
from harness.config import Config
from tests.conftest import ROOT, manifest, read_rows
from tests.tiny import gsm8k_rows, make_model, write_jsonl

Command = Callable[..., "subprocess.CompletedProcess[str]"]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"python run\.py ([^`#\n]+)")
FETCHED = ("checkpoint=", "fork=", "schedule=", "searchpath", "mine", "RUN", "PATH", "…", "--help", "VALUE", "tuned/")


def text_of(page: Path) -> str:
    """A page, with each command of several lines on one."""
    return re.sub(r"\\\n\s*", "", page.read_text())


def documented() -> Iterator[str]:
    """Every whole command of the pages, once."""
    found = (command.strip() for page in PAGES for command in COMMAND.findall(text_of(page)))
    return iter(dict.fromkeys(command for command in found if "=" in command))


COMMANDS = [command for command in documented() if not any(word in command for word in FETCHED)]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("typed", COMMANDS)
def test_a_documented_command_composes(typed: str) -> None:
    words = [word for word in shlex.split(typed) if not word.startswith("--cfg") and word != "job"]
    file = points.file_of(words)
    assert compose_cells(words)[0] if file is None else points.compose(words, file)[1]


@pytest.mark.parametrize("typed", [c for c in documented() if re.search(r"task=(gsm8k|deepscaler|math)\b", c)])
def test_a_documented_command_names_a_model_that_reads_its_task(typed: str) -> None:
    assert re.search(r"\b(model\.path|checkpoint|experiment)=", typed), "the default model has digits and signs alone"


RUN = (
    "device=cpu", "updates=1", "updates_per_step=1", "rollout.prompts_per_step=2", "rollout.group_size=2",
    "eval.every=1", "eval.samples=1", "eval.greedy=false", "task.validation_problems=2", "task.test_problems=2",
    "tracking=none", "rollout=torch", "checkpoint_every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the documented commands name → a file or folder here."""
    folder = tmp_path_factory.mktemp("stand-ins")
    train, test = (
        write_jsonl(folder / "a.jsonl", gsm8k_rows(20)),
        write_jsonl(folder / "b.jsonl", gsm8k_rows(4, first=50)),
    )
    model = make_model(folder / "m", chat=True, dtype="bfloat16", max_position_embeddings=2048)
    return {"train.jsonl": str(train), "test.jsonl": str(test), "my-model": str(model)}


@pytest.mark.parametrize(
    "typed", [command for command in COMMANDS if "my-model" in command and "dry_run" not in command]
)
def test_your_own_model_and_data_run_at_lengths_that_fit(
    tmp_path: Path, monkeypatch: Any, stand_ins: dict[str, str], typed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, here in stand_ins.items():
        typed = typed.replace(f"={name}", f"={here}")
    typed = typed.replace("rollout=vllm", "").replace("device=cuda", "")  # RUN says cpu and torch
    if "task.path" not in typed:
        typed += f" task.path={stand_ins['train.jsonl']} task.test_path={stand_ins['test.jsonl']}"
    (config,) = plan([*shlex.split(typed), *RUN, "rollout.max_new_tokens=24"]).cells
    assert fitting(config) == {"model.dtype": "bfloat16", "model.template": "chat", "learner.lr": 1e-6}
    assert config.rollout.max_prompt_tokens == 1024
    assert run_cell(config) == "finished", manifest(config.folder)["error"]
    assert len(read_rows(config.folder / "metrics.jsonl")) == 1


def fitting(config: Config) -> dict[str, Any]:
    flat = config.flat()
    return {name: flat[name] for name in ("model.dtype", "model.template", "learner.lr")}


def test_what_is_declared_and_what_is_typed_name_the_same_run() -> None:
    (declared,), (typed,) = (
        plan(["tracking=none", *words]).cells
        for words in (
            [],
            ["rollout.max_new_tokens=24", "rollout.max_prompt_tokens=1024", "learner.lr=3e-5", "model.dtype=float32",
             "model.template=plain"],
        )
    )  # fmt: skip
    assert declared.folder == typed.folder
    (small,) = plan(["task=gsm8k_small", "model=gsm8k_small", "tracking=none"]).cells
    assert small.rollout.max_new_tokens == 32 and small.learner.lr == 1e-4
    (short,) = plan(["task.max_new_tokens=1024", "task=gsm8k_small", "model=gsm8k_small", "tracking=none"]).cells
    assert short.rollout.max_new_tokens == 128  # of the model's 256 positions
    for task in ("gsm8k", "math", "deepscaler", "countdown"):
        (cell,) = plan([f"task={task}", "model=hf", "model.path=a/b", "dry_run=true"]).cells
        assert cell.rollout.max_new_tokens >= 1024, task


def test_a_first_evaluation_that_is_cut_off_says_which_key(command: Command) -> None:
    small = ("task.validation_problems=2", "task.test_problems=2", "tracking=none", "eval.samples=1")
    result = command("mode=evaluate", "checkpoint=harness/assets/carry", "rollout.max_new_tokens=1", *small)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if "cut off at rollout.max_new_tokens=1;" in line]
    assert len(lines) == 2  # validation and test


TYPED = re.compile(r"(?:^ *|`)python -m (\S+?)(?:`| +(.*?)(?:`| {2,}|$))", re.M)  # what follows two spaces explains
MADE = re.compile(r"(?:^|`)make ([a-z][a-z-]*)", re.M)
STABILISERS = str(ROOT / "docs/records/stabilisers.parquet")  # every method at s = 64


def typed_behind(module: str) -> list[str]:
    """What the pages type behind `python -m MODULE`, each once."""
    pages = (TYPED.findall(text_of(page)) for page in PAGES)
    return list(dict.fromkeys(words.strip() for found in pages for name, words in found if name == module and words))


def test_every_module_and_target_that_is_typed_is_there() -> None:
    text = "\n".join(map(text_of, PAGES))
    modules = {name for name, _ in TYPED.findall(text)}
    assert len(modules) > 10
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    files = set(re.findall(r"python ((?:benchmarks|parity|tests)/\S+\.py)", text))
    assert [name for name in files if not (ROOT / name).is_file()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(MADE.findall(text)) - targets == set()


def of_analysis() -> list[list[str]]:
    """The pages' whole commands of the analysis as words: what is optional is given, RUNS are STABILISERS."""
    whole = (words for words in typed_behind("analysis") if "… " not in words.replace("S…", "S") and " " in words)
    plain = (re.sub(r"[\[\]…]", "", words) for words in whole)
    return [[STABILISERS if word in ("RUNS", "runs") else word for word in shlex.split(words)] for words in plain]


def test_the_commands_of_the_analysis_parse() -> None:
    commands = of_analysis()
    assert len(commands) > 10
    for words in commands:
        analysis.__main__._parser().parse_args(words)


@pytest.mark.parametrize("name", ["table", "leaderboard", "compare"])
def test_the_commands_of_the_analysis_run(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (words, *_) = [each for each in of_analysis() if each[0] == name and STABILISERS in each]
    assert analysis.__main__.main(words) == 0


def test_the_graded_examples_are_graded(capsys: pytest.CaptureFixture[str]) -> None:
    examples = [words for words in typed_behind("harness.grade") if "--answer" in words and "allow-code" not in words]
    assert len(examples) >= 3
    for words in examples:
        assert grade.main(shlex.split(words)) == 0
        assert capsys.readouterr().out.strip()
