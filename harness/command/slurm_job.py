"""What a job of Slurm does: one cell, and when Slurm stops it, a checkpoint and the job back into the queue.

Slurm sends SIGUSR2 before a job's time is up (`signal_delay_s`) and SIGTERM when it wants the place for another. The
job passes either on to the run as SIGTERM, to the run alone and not to the processes that help it; the run saves
itself. A job that Slurm is ending already (`scancel`, or a requeue) is left to Slurm. Any other is requeued, under the
same number and with the same command, which carries on to the same bits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from harness import SETTINGS
from harness.progress import QUIET
from harness.records.state import status_of
from harness.records.tail import last_update

LAUNCHER = ("hydra/launcher", "hydra.launcher")
MIRRORED = "LAGRANGE_MIRRORED"  # set where another command writes the sweep and mirrors its cells
FIRST_PORT, PORTS = 20000, 20000  # where the ranks of a job meet: below the ports that a machine hands out


def work(words: Sequence[str], folder: str) -> None:
    """Runs a cell. words: its overrides. folder: its run folder."""
    first, before = int(os.environ.get("SLURM_PROCID", "0")) == 0, last_update(Path(folder))
    asked = _run([word for word in words if not word.lstrip("+~").startswith(LAUNCHER)], first)
    if first and asked and status_of(Path(folder)) in ("interrupted", "waiting"):
        _give_back(folder, timed_out="SIGUSR2" in asked and last_update(Path(folder)) == before)


def _run(words: Sequence[str], first: bool) -> list[str]:
    """Runs the command of one cell to its end. Returns the signals that asked it to stop.

    first: whether this is the job's only process or rank 0, which dismisses the other ranks.
    """
    asked: list[str] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)
        if first:
            run.terminate()

    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # what is ignored stays so in all processes of the run
    command = [sys.executable, str(SETTINGS / "run.py"), *words, "hydra.mode=RUN"]
    run = subprocess.Popen(command, env=os.environ | {QUIET: "1", MIRRORED: "1"} | _meeting(), process_group=0)
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, pass_on)
    run.wait()
    return asked


def _meeting() -> dict[str, str]:
    """Where the processes of a job find each other, if there are several."""
    if int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return {}
    # Imported late: only ranks on several nodes need to know their names.
    import submitit

    port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % PORTS
    return {"MASTER_ADDR": submitit.JobEnvironment().hostnames[0], "MASTER_PORT": str(port)}


def _give_back(folder: str, timed_out: bool) -> None:
    """Puts this job back into the queue and ends it, unless that is Slurm's affair, or no use.

    timed_out: whether the job's time has not sufficed for one update.
    """
    if timed_out:
        print(
            f"{folder}: no update within the job's time, so it is not requeued; raise hydra.launcher.time", flush=True
        )
        return
    job = _number()
    if _scontrol("show", "job", "-o", job).find("JobState=RUNNING") < 0:
        return
    _scontrol("requeue", job)
    sys.exit(1)  # without a result, for there is none


def _number() -> str:
    """What scontrol knows this job by. Of an array, the last job's plain number also names the whole array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def _scontrol(*words: str) -> str:
    """What `scontrol` answers; what it complains of goes into the job's output."""
    return subprocess.run(["scontrol", *words], stdout=subprocess.PIPE, text=True, check=False).stdout
