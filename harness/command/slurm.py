"""A sweep's cells as jobs of Slurm: what hydra/launcher=slurm stands for.

submitit writes the array and submits it; what a job does stands in slurm_job.py. The launcher waits until Slurm lists
none of the jobs any more, whatever became of them: how a cell has ended, its run folder says. It may be stopped or
lost at any time; the jobs go on, and the same command submits what is not finished.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import PROJECT, interrupts
from harness.command.slurm_job import work
from harness.config import Config
from harness.drivers.ray_cluster import address_of
from harness.errors import UserError, first_line
from harness.progress import QUIET
from harness.records.state import status_of

TARGET = "harness.command.slurm.run_cells"  # of conf/hydra/launcher/slurm.yaml
JOBS = ".slurm"  # in runs_dir: submitit's scripts and the jobs' output
SECONDS_BETWEEN_LOOKS = 5.0
SBATCH = {"gpus": "gpus_per_node", "tasks_per_node": "ntasks_per_node"}  # key → name that submitit has for it


def check() -> None:
    """Raises UserError where jobs cannot be submitted."""
    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher=slurm: no sbatch here; start it on a machine that submits to a Slurm cluster")


def check_gpus(settings: Mapping[str, Any], cell: Config) -> None:
    """Raises UserError where a job's node is asked for fewer GPUs than its cell takes there.

    settings: of conf/hydra/launcher/slurm.yaml; gpus: null leaves the number to the cluster.
    """
    if not isinstance(settings["gpus"], int) or not cell.device.startswith("cuda"):
        return
    taken = int(settings["tasks_per_node"]) if int(settings["nodes"]) > 1 else cell.ranks
    if cell.ranks_in_cluster:
        taken = 1
    if cell.driver == "ray" and cell.ray.address != "auto" and address_of(cell.ray) is None:  # its own, on the node
        taken += math.ceil(cell.ray.actors * cell.ray.gpus_per_actor)
    if cell.driver != "ray" and cell.choices["rollout"] == "vllm":
        taken = max(taken, cell.rollout.vllm.tensor_parallel_size)
    if settings["gpus"] < taken:
        raise UserError(
            f"hydra.launcher.gpus={settings['gpus']}: the ranks and engines of a cell take {taken} on a node; expected "
            f"hydra.launcher.gpus={taken}"
        )


def run_cells(settings: Mapping[str, Any], name: str, runs_dir: Path, cells: Sequence[tuple[list[str], Path]]) -> None:
    """Submits cells as one array and waits until every job has ended, or a signal asks this process to stop.

    settings: of conf/hydra/launcher/slurm.yaml.
    name: of the jobs.
    runs_dir: folder of all runs, which every node sees.
    cells: overrides and run folder of each.
    Raises UserError for what sbatch refuses.
    """
    if not cells:
        return
    jobs = _submit(settings, name, runs_dir.resolve() / JOBS, cells)
    array = next(iter(jobs)).partition("_")[0]
    if QUIET not in os.environ:
        print(f"{len(jobs)} jobs of Slurm: {array}, output in {runs_dir / JOBS}", file=sys.stderr, flush=True)
    with interrupts.graceful():
        while _listed(array):
            if interrupts.requested():
                print(f"the jobs go on; `scancel {array}` ends them", file=sys.stderr)
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)
    for job, (_, folder) in jobs.items():
        status = status_of(folder)
        if status not in ("finished", "paused", "failed"):
            log = runs_dir / JOBS / job / f"{job}_0_log.err"
            print(f"{folder}: {status}, and its job {job} has ended; see {log}", file=sys.stderr)


def _submit(
    settings: Mapping[str, Any], name: str, folder: Path, cells: Sequence[tuple[list[str], Path]]
) -> dict[str, tuple[list[str], Path]]:
    """Returns the cell of every job's number."""
    # Imported late: only sweeps on Slurm need it.
    import submitit

    executor = submitit.SlurmExecutor(folder=folder / "%j", python=sys.executable)
    given = {SBATCH.get(str(key), str(key)): value for key, value in settings.items() if key != "_target_"}
    # A job that Slurm stops, or whose node fails, is started again; its output goes on in the same files.
    given["additional_parameters"] = {"requeue": True, **given["additional_parameters"]}
    # submitit itself is to be found there, as well as the code that is run.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        executor.update_parameters(job_name=name, **given)
        jobs = executor.map_array(work, *zip(*((words, str(path)) for words, path in cells), strict=True))
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"hydra/launcher=slurm: sbatch refused the jobs ({first_line(error)})") from error
    return {job.job_id: cell for job, cell in zip(jobs, cells, strict=True)}


def _listed(array: str) -> bool:
    """Whether Slurm still has a job of an array to run, to end, or to start again."""
    shown = subprocess.run(["squeue", "-h", "-o", "%i", "-j", array], capture_output=True, text=True, check=False)
    if shown.returncode == 0:
        return bool(shown.stdout.strip())
    return "Invalid job id" not in shown.stderr  # no answer is no news
