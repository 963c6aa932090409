"""Small real runs in forked processes, so that nobody waits for imports: started, watched, and compared.

Import this before anything computes with torch in the process: a fork keeps no threads.
"""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

import harness.command.launch  # so that no forked run imports them again
import harness.command.watch
import harness.training  # noqa: F401
from harness.command.cell import run_cell
from harness.command.plan import plan
from harness.config import Config
from harness.groups import ModelConfig
from harness.models.loading import load_model
from harness.records.files import lock_owner
from harness.records.layout import LOCK, MANIFEST, TOKENS
from harness.records.state import status_of

TINY = (
    "rollout.prompts_per_step=8",
    "rollout.group_size=4",
    "rollout.max_new_tokens=20",
    "task.validation_problems=8",
    "task.test_problems=8",
    "eval.every=8",
    "eval.samples=2",
    "checkpoint_every=8",
    "updates=24",
)
ROOT = Path(__file__).resolve().parents[1]
RECORDS = ("metrics.jsonl", "eval.jsonl", "samples.jsonl")
LONGEST_S = 120.0  # a run that takes longer hangs
POLL_S = 0.001


def prepare() -> None:
    """What transformers imports late, once for all runs."""
    torch.set_num_threads(1)
    load_model(ModelConfig("harness/assets/carry"), "cpu")


def line_of(overrides: Sequence[str], runs_dir: Path, sizes: Sequence[str] = TINY) -> list[str]:
    """The words after `run.py` for a small run."""
    return [*sizes, *overrides, "tracking=none", "retry_failed=true", f"runs_dir={runs_dir}"]


def config_of(overrides: Sequence[str], runs_dir: Path, sizes: Sequence[str] = TINY) -> Config:
    return plan(line_of(overrides, runs_dir, sizes)).cells[0]


def fork(action: Callable[[], int], log: Path | None = None) -> int:
    """Does something in a forked process and returns its id.

    action: what the process does; returns its exit code, or raises SystemExit.
    log: file that gets what it prints (default: nothing does).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code: object = 70
    try:
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        torch.set_num_threads(1)
        code = action()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 71)


def run_py(line: Sequence[str], before: Callable[[], None] = lambda: None, log: Path | None = None) -> int:
    """Starts `run.py` with these words, as a user would. before: what the process does first."""

    def action() -> int:
        before()
        sys.argv = ["run.py", *line]
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        return 0

    return fork(action, log)


def start(config: Config, before: Callable[[], None] = lambda: None) -> int:
    """Runs the cell in a forked process and returns its id. before: what the child does first."""

    def action() -> int:
        before()
        return {"finished": 0, "skipped": 0, "failed": 1, "interrupted": 2, "held": 3}.get(run_cell(config), 4)

    return fork(action)


def wait(child: int, until: Callable[[], bool] | None = None) -> int | None:
    """Waits for the child's end, or for `until` to become true; its exit status, None if it is still there.

    Raises TimeoutError after LONGEST_S, with the child killed.
    """
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if until is not None and until():
            return None
        time.sleep(POLL_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"process {child} was still running after {LONGEST_S:g} s")


def finish(config: Config) -> str:
    """The same command again, until the run has finished; otherwise how it ended, and each attempt's exit status."""
    attempts = []
    for _ in range(4):
        attempts.append(wait(start(config)))
        if status_of(config.folder) == "finished":
            return "finished"
    owner = lock_owner(config.folder / LOCK)
    return f"{status_of(config.folder)} after attempts that exited {attempts} (its lock: {owner})"


@dataclass(frozen=True)
class Trace:
    """What must be equal whatever happened: the final weights, every record without its timings, and the tokens."""

    weights: str
    records: str
    updates: tuple[int, ...]
    tokens: str


def trace(folder: Path) -> Trace:
    digest = hashlib.sha256()
    updates: list[int] = []
    for name in RECORDS:
        for line in (folder / name).read_text().splitlines():
            row = {key: value for key, value in json.loads(line).items() if not key.startswith("time/")}
            digest.update(json.dumps(row, sort_keys=True).encode())
            if name == "metrics.jsonl":
                updates.append(row["update"])
    manifest = json.loads((folder / MANIFEST).read_text())
    return Trace(str(manifest["final_weights_sha256"]), digest.hexdigest(), tuple(updates), _tokens(folder / TOKENS))


def _tokens(path: Path) -> str:
    rows = pq.read_table(path).to_pydict() if path.is_file() else {}
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def undisturbed(overrides: Sequence[str], runs_dir: Path, sizes: Sequence[str] = TINY) -> Trace:
    config = config_of(overrides, runs_dir, sizes)
    assert finish(config) == "finished", f"the undisturbed run {overrides} does not finish"
    return trace(config.folder)
