"""Cells as jobs of a real Slurm: preempted, over their time, killed, cancelled, run by two tasks."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.command.cell import run_cell
from harness.command.plan import plan
from harness.config import Config
from harness.errors import UserError
from harness.records.files import read_json
from harness.records.layout import MANIFEST, METRICS
from harness.records.tail import last_row
from tests.conftest import LIMIT_S, ROOT, SMALL, until

HERE = Path(__file__).parent
CELLS = (*SMALL, "task._target_=paced.Paced", "allow_code=[paced]", "algo=grpo", "updates=48", "eval.every=48")

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(autouse=True)
def code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs find the paced task."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(ROOT))))
    monkeypatch.syspath_prepend(str(HERE))


@contextmanager
def launched(*words: str, by: Path = HERE / "submit.py") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(by), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()  # one that a failed test has left


def updates(cell: Config) -> int:
    return int((last_row(cell.folder / METRICS) or {}).get("update", 0))


def said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def jobs_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"jobs of Slurm: (\d+)", line):
            return found[1]
    raise AssertionError("no job was submitted")


def restarts(job: str) -> int:
    return int(re.findall(r"Restarts=(\d+)", said("scontrol", "show", "job", "-o", job))[0])


def limit(job: str) -> None:
    """Sets a job's time limit to one or two minutes from now: less than signal_delay_s, so Slurm warns it."""
    days, clock = re.findall(r"RunTime=(?:(\d+)-)?(\S+)", said("scontrol", "show", "job", "-o", job))[0]
    assert not days
    hours, minutes, seconds = map(int, clock.split(":"))
    total = math.ceil((3600 * hours + 60 * minutes + seconds + 60) / 60)
    said("scontrol", "update", f"JobId={job}", f"TimeLimit={total}")


def undisturbed(*words: str) -> str:
    """The final weights of a run that nobody stops."""
    config = plan(words).cells[0]
    assert run_cell(config) == "finished"
    return str(read_json(config.folder / MANIFEST)["final_weights_sha256"])


def test_one_preempted_and_one_over_its_time_both_finish_with_undisturbed_weights(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag = (*CELLS, "staleness=4", "seed=1,2")
    expected = [undisturbed(*CELLS, "staleness=4", f"seed={seed}", f"runs_dir={tmp_path / 'alone'}") for seed in (1, 2)]
    monkeypatch.setenv("PACE_S", "5")
    words = (*lag, f"runs_dir={tmp_path / 'jobs'}", "hydra.launcher.time=30", "hydra.launcher.signal_delay_s=120")
    words = ("-m", "hydra/launcher=slurm", *words)
    cells = plan(words).cells
    with launched(*words, by=ROOT / "run.py") as process:
        array = jobs_of(process)
        until(lambda: all(updates(cell) >= 4 for cell in cells), "no update")
        said("scontrol", "requeue", f"{array}_0")
        limit(f"{array}_1")
        until(lambda: restarts(f"{array}_1"), "not requeued at its time limit")
        said("scontrol", "update", f"JobId={array}_1", "TimeLimit=30")
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
    assert "2 cells: 2 finished" in out
    for number, cell in enumerate(cells):
        manifest = read_json(cell.folder / MANIFEST)
        assert manifest["final_weights_sha256"] == expected[number]
        assert len(manifest["resumed"]) == 1
        assert restarts(f"{array}_{number}") == 1


def test_a_job_that_dies_or_is_cancelled_does_not_hold_the_launcher_and_the_same_command_carries_on(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACE_S", "3")
    words = (*CELLS, f"runs_dir={tmp_path}", "seed=1,2")
    cells = plan(["-m", "hydra/launcher=slurm", *words]).cells
    with launched(*words) as process:
        array = jobs_of(process)
        until(lambda: all(updates(cell) >= 4 for cell in cells), "no update")
        said("scancel", "--signal=KILL", f"{array}_0")
        said("scancel", f"{array}_1")
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 1
    assert "2 cells: 2 interrupted" in out
    assert err.count(f"and its job {array}_") == 2
    assert [restarts(f"{array}_{number}") for number in (0, 1)] == [0, 0]
    assert not said("squeue", "-h", "-j", array)
    monkeypatch.setenv("PACE_S", "0")
    with launched(*words) as process:
        out, err = process.communicate(timeout=LIMIT_S)
    assert "2 cells: 2 finished" in out, err


def test_the_tasks_of_a_job_are_the_ranks_of_its_run(slurm: None, tmp_path: Path) -> None:
    run = (*SMALL, "algo=grpo", "staleness=4", "driver=overlapped", "learner.micro_batch_tokens=256")
    alone = undisturbed(*run, f"runs_dir={tmp_path / 'alone'}")
    words = (*run, "ranks=2", "hydra.launcher.tasks_per_node=2", f"runs_dir={tmp_path / 'jobs'}")
    with launched(*words) as process:
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
    (made,) = (tmp_path / "jobs").glob(f"carry/*/{MANIFEST}")
    assert read_json(made)["final_weights_sha256"] == alone


def test_what_sbatch_refuses_is_said(slurm: None, tmp_path: Path) -> None:
    words = ("-m", "hydra/launcher=slurm", *SMALL, f"runs_dir={tmp_path}", "hydra.launcher.partition=nowhere")
    with launched(*words, by=ROOT / "run.py") as process:
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    last = err.splitlines()[-1]
    assert last.startswith("run.py: hydra/launcher=slurm: sbatch refused") and "invalid partition" in last, err


def test_a_launcher_needs_a_sweep_and_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="put -m in front"):
        plan(["hydra/launcher=slurm", *SMALL])
    with pytest.raises(UserError, match="= 2 tasks with ranks=1"):
        plan(["-m", "hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2", *SMALL])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch here"):
        plan(["-m", "hydra/launcher=slurm", *SMALL])
    plan(["-m", "hydra/launcher=slurm", "dry_run=true", *SMALL])


def test_a_gpu_is_looked_for_where_the_run_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["-m", *SMALL, "device=cuda", "ranks=2", "driver=overlapped", f"runs_dir={tmp_path}"]
    plan([*words, "hydra/launcher=slurm"])
    with pytest.raises(UserError, match="ranks=2 with driver=serial"):  # which no machine can serve
        plan([*words, "hydra/launcher=slurm", "driver=serial"])
    with pytest.raises(UserError):
        plan(words)


def test_the_ray_cluster_of_the_docs_is_a_script_that_sbatch_takes(slurm: None, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    (script,) = re.findall(r"```bash\n(#!/bin/bash.*?)```", page, re.DOTALL)
    file = tmp_path / "ray.sh"
    file.write_text(script)
    said("bash", "-n", str(file))
    refused = subprocess.run(["sbatch", "--test-only", str(file)], capture_output=True, text=True, check=False)
    assert "Requested node configuration is not available" in refused.stderr  # one node here, without GPUs
