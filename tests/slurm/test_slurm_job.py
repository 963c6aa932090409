"""When a job is given back to Slurm, told to a scontrol that only writes down what it is asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A run that records an update, and ends when it is asked to.
RUN = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["FOLDER"])
def row(update):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"update": %d}\\n' % update)
def stop(number, frame):
    if os.environ["LAST"] != "0":
        row(int(os.environ["LAST"]))
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
(folder / "writing").write_text(" ".join(sys.argv[1:]))
(folder / "writing").rename(folder / "words")
while os.environ["LAST"] != "-1":
    time.sleep(0.05)
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$FOLDER/asked"
if [ "$1" = show ]; then echo "JobId=7 JobState=$STATE Restarts=0"; fi
"""
JOB = """
import pathlib, sys
from harness.command import slurm_job
slurm_job.SETTINGS = pathlib.Path(sys.argv[1])
slurm_job.work(["seed=1", "hydra/launcher=slurm", "hydra.launcher.time=5"], sys.argv[1])
"""


def job(folder: Path, sent: signal.Signals | None, state: str = "RUNNING", last: int = 4, **more: str) -> list[str]:
    """What scontrol is asked by a job that gets a signal; last: update that its run ends at, -1: at once."""
    (folder / "run.py").write_text(RUN)
    (folder / "scontrol").write_text(SCONTROL)
    (folder / "scontrol").chmod(0o755)
    path = os.pathsep.join((str(folder), os.environ["PATH"]))
    told = {"FOLDER": str(folder), "STATE": state, "LAST": str(last), "PATH": path, "SLURM_JOB_ID": "7", **more}
    process = subprocess.Popen([sys.executable, "-c", JOB, str(folder)], env=os.environ | told, stdout=-1, text=True)
    deadline = time.monotonic() + 60
    while not (folder / "words").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if sent is not None:
        process.send_signal(sent)
    (folder / "said").write_text(process.communicate(timeout=60)[0])
    assert (folder / "words").read_text() == "seed=1 hydra.mode=RUN"
    asked = folder / "asked"
    return asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize("sent", [signal.SIGUSR2, signal.SIGTERM])
def test_a_job_that_is_warned_is_requeued(tmp_path: Path, sent: signal.Signals) -> None:
    assert job(tmp_path, sent) == ["show job -o 7", "requeue 7"]


def test_a_job_of_an_array_is_requeued_alone(tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert job(tmp_path, signal.SIGTERM, **array) == ["show job -o 7_3", "requeue 7_3"]


def test_a_job_that_slurm_is_ending_is_left_to_it(tmp_path: Path) -> None:
    assert job(tmp_path, signal.SIGTERM, state="COMPLETING") == ["show job -o 7"]


def test_a_job_that_nobody_stops_is_not_requeued(tmp_path: Path) -> None:
    assert job(tmp_path, None, last=-1) == []


def test_time_that_does_not_suffice_for_an_update_is_said_and_not_asked_for_again(tmp_path: Path) -> None:
    assert job(tmp_path, signal.SIGUSR2, last=0) == []
    assert "raise hydra.launcher.time" in (tmp_path / "said").read_text()


def test_preempted_before_its_first_update_it_is_requeued_all_the_same(tmp_path: Path) -> None:
    assert job(tmp_path, signal.SIGTERM, last=0)[-1] == "requeue 7"


def test_a_rank_beside_the_first_leaves_it_to_rank_0(tmp_path: Path) -> None:
    (tmp_path / "hosts").touch()
    ranks = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SUBMITIT_EXECUTOR": "slurm"}
    assert job(tmp_path, signal.SIGUSR2, last=-1, **ranks) == []
