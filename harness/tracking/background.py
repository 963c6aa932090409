"""MLflow sync beside a command: a process started before the first cell, which finishes behind the last.

It lives beside the training processes and reads their folders, so a slow, locked or absent MLflow costs the
training nothing. When its standard input ends, also because the command was killed, it mirrors what is left and ends;
the command waits for that a moment, to say what went wrong before it ends itself, and no longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import PROJECT
from harness.groups import TrackingConfig
from harness.tracking.notes import is_complete, warning
from harness.tracking.store import store_uri

PATIENCE_S = 3.0


@dataclass(frozen=True)
class SyncJob:
    """What the sync process is told, as one line of JSON.

    uri: of the MLflow store. experiment: its name there. every: updates between mirrored rows.
    sweep: the sweep's folder, None for a single run. cells: run folders.
    """

    uri: str
    experiment: str
    every: int
    sweep: str | None
    cells: list[str]

    @property
    def folders(self) -> list[Path]:
        """Every folder that becomes a run in MLflow."""
        return [Path(folder) for folder in (*self.cells, *filter(None, [self.sweep]))]


@contextmanager
def mlflow_sync(
    tracking: TrackingConfig, runs_dir: Path, cells: Sequence[Path], sweep: Path | None = None
) -> Iterator[None]:
    """Keeps MLflow up to date with a command's folders while the block runs.

    tracking: where and how often; with backend "none", or when everything is there already, nothing is started.
    runs_dir: folder of all runs, for the default store and the warning.
    cells: run folders, begun or not. sweep: the sweep's folder, None for a single run.
    At most one warning line on stderr; never an error.
    """
    job = SyncJob(
        store_uri(tracking.uri, runs_dir),
        tracking.experiment,
        tracking.every,
        None if sweep is None else str(sweep.resolve()),
        [str(cell.resolve()) for cell in cells],
    )
    if tracking.backend == "none" or all(is_complete(folder, job.uri) for folder in job.folders):
        yield
        return
    process = _start(job)
    try:
        yield
    finally:
        _stop(process, runs_dir)


def _start(job: SyncJob) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "harness.tracking.sync", "--live"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the runs; the sync process sees how they ended
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once: said at the end
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()
    return process


def _stop(process: subprocess.Popen[str], runs_dir: Path) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with suppress(subprocess.TimeoutExpired):  # it goes on alone
        code = process.wait(PATIENCE_S)
        if code != 0 and not process.stdout.read():
            print(warning(f"its process ended with code {code}", runs_dir), file=sys.stderr)
    process.stdout.close()
