"""Every file under conf/ and sweeps/ composes; every experiment dry-runs, and runs two updates with stand-ins."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness.command import dry_run, launch
from harness.command.cell import run_cell
from harness.command.compose import compose_cells
from harness.command.plan import plan
from harness.errors import UserError
from tests.conftest import ROOT, manifest, read_rows
from tests.tiny import boxed_rows, gsm8k_rows, make_model, suites_folder, write_jsonl

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def options(group: str, root: str = "conf") -> list[str]:
    folder = ROOT / root / group
    return sorted(str(f.relative_to(folder).with_suffix("")) for f in folder.glob("**/*.yaml"))


def required(file: Path) -> list[str]:
    """Overrides for the keys of a file that have no default."""
    values = yaml.safe_load(file.read_text())
    given = {"name": "leg_counting", "path": "organisation/model", "delta": 0.5}
    return [f"{file.parent.name}.{key}={given[key]}" for key, value in (values or {}).items() if value == "???"]


GROUPED = [
    (group.name, option)
    for group in sorted((ROOT / "conf").iterdir())
    if group.is_dir() and group.name != "experiment"
    for option in options(group.name)
]
EXPERIMENTS = options("experiment")
# What an option needs beside itself to make a valid run.
SERVED = {"bounded": ("driver=overlapped", "staleness=8")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_under_conf_is_left_out() -> None:
    found = {f"{group}/{option}.yaml" for group, option in GROUPED} | {f"experiment/{e}.yaml" for e in EXPERIMENTS}
    files = {str(f.relative_to(ROOT / "conf")) for f in (ROOT / "conf").glob("**/*.yaml")}
    assert files == found | {"config.yaml"}


def test_every_option_composes(here: Path) -> None:
    for group, option in GROUPED:
        if group == "hydra":  # launchers are for sweeps, where their cluster is: tests/slurm
            continue
        overrides = required(ROOT / "conf" / group / f"{option}.yaml")
        typed = [f"{group}={option}", *overrides, *SERVED.get(option, ()), "dry_run=true"]
        if option == "replay":  # it needs the schedule of a run
            cells, *_ = compose_cells(typed)
        else:
            cells = plan(typed).cells
        assert len(cells) == 1, (group, option)
    assert not list(here.iterdir())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_dry_runs_without_hub_or_data(here: Path, experiment: str) -> None:
    planned = plan([f"experiment={experiment}", "dry_run=true"])
    text = dry_run.report(planned)
    assert str(planned.cells[0].folder) in text
    assert "responses a step" in text and "rollout queue" in text and "memory" in text
    assert max(map(len, text.splitlines())) <= 100
    assert not list(here.iterdir())


@pytest.mark.parametrize("sweep", options("sweep", "sweeps"))
def test_every_sweep_dry_runs(here: Path, sweep: str) -> None:
    planned = plan([f"sweep={sweep}", "seed=1", "dry_run=true"])  # one seed: a third of the time
    assert planned.cells
    assert f"dry run: {len(planned.cells)} cell" in dry_run.report(planned)
    assert not list(here.iterdir())


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Overrides that put a tiny model and small files in the place of each task's own."""
    folder = tmp_path_factory.mktemp("stand-ins")
    model = make_model(folder / "model", chat=True)
    gsm8k = write_jsonl(folder / "gsm8k.jsonl", gsm8k_rows(24))
    test = write_jsonl(folder / "test.jsonl", gsm8k_rows(4, first=100))
    boxed = write_jsonl(folder / "boxed.jsonl", boxed_rows(24))
    more = write_jsonl(folder / "more.jsonl", boxed_rows(4, first=100))
    small = [f"model.path={model}", "model.pad_token=null", "task.validation_problems=4", "rollout=torch", "device=cpu"]
    return {
        "gsm8k": [*small, f"task.path={gsm8k}", f"task.test_path={test}"],
        "deepscaler": [*small, f"task.path={boxed}", f"eval.suites_path={suites_folder(folder / 'suites')}"],
        "math": [*small, f"task.path={boxed}", f"task.test_path={more}"],
        "gsm8k_small": [],
        **{task: [] for task in ("carry", "carry_long", "carry_noisy", "carry_rare")},
    }


TWO_UPDATES = (
    "updates=2",
    "updates_per_step=1",
    "staleness=0",
    "driver=serial",
    "ranks=1",
    "rollout.chunks=1",
    "checkpoint_every=2",
    "rollout.prompts_per_step=2",
    "rollout.group_size=2",
    "rollout.max_new_tokens=8",
    "eval.every=2",
    "eval.samples=1",
    "eval.greedy=false",
    "tracking=none",
)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_two_updates_with_stand_ins(
    here: Path, stand_ins: dict[str, list[str]], experiment: str
) -> None:
    (composed,) = plan([f"experiment={experiment}", "dry_run=true"]).cells
    overrides = [*stand_ins[composed.choices["task"]], *TWO_UPDATES]
    if composed.eval.suites:
        overrides.append("eval.suite_samples=1")
    (config,) = plan([f"experiment={experiment}", *overrides]).cells
    assert run_cell(config) == "finished"
    assert [row["update"] for row in read_rows(config.folder / "metrics.jsonl")] == [1, 2]
    splits = {row["split"] for row in read_rows(config.folder / "eval.jsonl")}
    assert {"validation", *config.eval.suites} <= splits
    if not config.choices["task"].startswith("carry"):
        data: dict[str, Any] = manifest(config.folder)["data"]
        assert all(len(source["sha256"]) == 64 for source in data.values())


def test_dry_run_on_the_command_line_writes_nothing(command: Command, tmp_path: Path) -> None:
    result = command("experiment=paper/qwen3_1_7b", "staleness=256", "dry_run=true")
    assert result.returncode == 0, result.stderr
    assert "65 batches" in result.stdout
    assert not list(tmp_path.iterdir())


def test_bad_data_is_refused_before_anything_is_written(command: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "bad.jsonl", [{"query": "x", "answer": "#### 1"}])
    result = command("task=gsm8k", "task.path=bad.jsonl")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "no column question; it has query, answer" in result.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["bad.jsonl"]


def run_here(*arguments: str) -> Path:
    (config,) = plan(list(arguments)).cells
    assert run_cell(config) == "finished"
    return config.folder


def test_a_checkpoint_and_a_base_model_are_evaluated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("task.validation_problems=8", "task.test_problems=8", "tracking=none", "eval.samples=2", "eval.top_p=[0.7]")
    sizes = ("rollout.prompts_per_step=4", "rollout.group_size=2")
    run = run_here("updates=8", "eval.every=8", "checkpoint_every=8", *few, *sizes)
    last = [row for row in read_rows(run / "eval.jsonl") if row["update"] == 8]
    for driver in ("serial", "overlapped"):
        found = run_here("mode=evaluate", f"checkpoint={run}/checkpoints/000008", f"driver={driver}", *few, *sizes)
        assert read_rows(found / "eval.jsonl") == last  # the same problems and seeds as in training
        assert not (found / "metrics.jsonl").exists() and not (found / "checkpoints").exists()
        samples = read_rows(found / "samples.jsonl")
        assert {"prompt", "response", "reward", "answer", "finished"} <= set(samples[0])
        assert manifest(found)["final_weights_sha256"] == manifest(run)["final_weights_sha256"]
    planned = plan(["mode=evaluate", "checkpoint=harness/assets/carry", *few])
    assert run_cell(planned.cells[0]) == "finished"
    rows = read_rows(planned.cells[0].folder / "eval.jsonl")
    assert {row["update"] for row in rows} == {0}
    assert launch.summary(planned) == 0
    said = capsys.readouterr().out.splitlines()
    for row, line in zip(rows, said[-2:], strict=True):
        average, passed = row["sampled_accuracy"], row["pass_at_k"]
        assert row["k"] == 2 and passed["1"] == pytest.approx(average) and average <= passed["2"]
        assert np.mean(row["right"]) == pytest.approx(2 * average) and len(row["right"]) == row["n"] == 8
        assert np.mean(row["right_top_p_0.7"]) == pytest.approx(2 * row["accuracy_top_p_0.7"])
        assert (
            np.mean(row["greedy_right"]) == row["greedy_accuracy"]
            and f"top_p_0.7 {row['accuracy_top_p_0.7']:.3f}" in line
        )
        assert row["split"] in line and f"avg@2 {average:.3f}  pass@2 {passed['2']:.3f}" in line
    trained = replace(planned.cells[0], checkpoint=f"{run}/checkpoints/000008")
    assert dry_run.parameters(trained) == dry_run.parameters(planned.cells[0])  # the optimizer's tensors are none
    with pytest.raises(UserError, match="no such folder"):
        plan(["mode=evaluate", "checkpoint=./nowhere", *few])


def test_the_numbers_of_the_benchmarks() -> None:
    """A smaller size of benchmarks/logprobs.py: its processes, its comparison, its exit code."""
    command = [sys.executable, "benchmarks/logprobs.py", "--tokens", "1024", "--hidden", "32", "--repeats", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    memory = float(result.stdout.split("memory × ")[1].split()[0].rstrip(","))
    error = float(result.stdout.split("differ by ")[1].split()[0])
    assert memory <= 0.4 and error <= 1e-6, json.dumps(result.stdout)
