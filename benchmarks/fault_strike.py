"""One attempt to break one run, what may be seen of it, and the faults that come from outside its process."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.small_runs import run_py, start, wait
from harness.config import Config
from harness.records.files import is_held
from harness.records.layout import LOCK, MANIFEST
from harness.records.state import status_of


@dataclass
class Strike:
    """One attempt on one run: where, and the dice.

    line: the words after `run.py` that make the run.
    log: what its processes printed.
    reference: folder of the same run, finished, which nobody disturbed.
    calls: file calls of that run by kind, none where they cannot be counted.
    turn: how often this kind of fault was tried before: what goes round (files, commands) goes by it.
    """

    config: Config
    line: list[str]
    dice: random.Random
    log: Path
    reference: Path
    calls: dict[int, int] = field(default_factory=dict)
    turn: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.config.folder

    def size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else 0

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("0*"))

    def start(self, before: Callable[[], None] = lambda: None) -> int:
        return run_py(self.line, before, self.log)

    def kill(self, when: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
        """Starts the run and signals it when the moment has come; False if it was over before."""
        child = self.start()
        if wait(child, when) is not None:
            return False
        os.kill(child, number)
        wait(child)
        return status_of(self.folder) != "finished"

    def at(self, low: float, high: float) -> Callable[[], bool]:
        moment = time.monotonic() + self.dice.uniform(low, high)
        return lambda: time.monotonic() >= moment


Fault = Callable[[Strike], bool]  # True if it struck


def kill_any_time(strike: Strike) -> bool:
    return strike.kill(strike.at(0.0, 2.0))


def kill_in_warm_up(strike: Strike) -> bool:
    begun = strike.folder / "heartbeat"
    return strike.kill(lambda: (strike.folder / MANIFEST).is_file() and not begun.exists())


def kill_at_a_record(strike: Strike) -> bool:
    bytes_ = strike.dice.randint(1, 1000 * strike.config.updates)
    return strike.kill(lambda: strike.size("metrics.jsonl") >= bytes_)


def kill_inside_a_save(strike: Strike) -> bool:
    expected_saves = strike.dice.randint(1, 3)
    seen: set[str] = set()
    delay = strike.dice.uniform(0, 0.03)

    def saving() -> bool:
        seen.update(p.name for p in (strike.folder / "checkpoints").glob(".0*.partial"))
        if len(seen) < expected_saves:
            return False
        time.sleep(delay)
        return True

    return strike.kill(saving)


def kill_inside_an_evaluation(strike: Strike) -> bool:
    every = strike.config.eval.every
    rows = strike.dice.randint(0, strike.config.updates // every) * every
    delay = strike.dice.uniform(0, 0.1)

    def evaluating() -> bool:
        path = strike.folder / "metrics.jsonl"
        done = path.read_bytes().count(b"\n") if path.is_file() else -1
        if done < rows or done % every:
            return False
        time.sleep(delay)
        return True

    return strike.kill(evaluating)


def terminate(strike: Strike) -> bool:
    begun = strike.folder / MANIFEST
    rows = strike.dice.randint(0, strike.config.updates // 2)
    delay = strike.dice.uniform(0, 0.1)

    def running() -> bool:
        path = strike.folder / "metrics.jsonl"
        if not begun.is_file() or (rows and (not path.is_file() or path.read_bytes().count(b"\n") < rows)):
            return False
        time.sleep(delay)
        return True

    return strike.kill(running, strike.dice.choice((signal.SIGTERM, signal.SIGINT)))


def hang(strike: Strike) -> bool:
    """The process stands still; another launcher must leave it alone; then it dies or goes on."""
    child = strike.start()
    if wait(child, lambda: is_held(strike.folder / LOCK)) is not None:
        return False
    os.kill(child, signal.SIGSTOP)
    second = start(strike.config)
    _, ended = os.waitpid(second, 0)
    if os.waitstatus_to_exitcode(ended) != 3:
        strike.notes.append("a second launcher did not respect the lock")
    dies = strike.dice.random() < 0.5
    os.kill(child, signal.SIGKILL if dies else signal.SIGCONT)
    wait(child)
    return True


def file_limit(strike: Strike) -> bool:
    """Quota: no file may grow beyond a few kilobytes, wherever that hits."""
    limit = int(2 ** strike.dice.uniform(13, 19))

    def tighten() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    log = strike.log.with_suffix(".quota")  # in a file of its own: it may be cut off by the limit
    wait(run_py(strike.line, tighten, log))
    log.unlink(missing_ok=True)
    status = status_of(strike.folder)
    if status == "failed":
        reason = str(json.loads((strike.folder / MANIFEST).read_text())["error"])
        if "File too large" not in reason:
            strike.notes.append(f"unclear error: {reason[:80]}")
    return status != "finished"


def clock_step(strike: Strike) -> bool:
    """The clock jumps hours to and fro while the run goes on, and then the run is killed."""
    real, jump = time.time, strike.dice.uniform(-7200, 7200)

    def step() -> None:
        began = real()
        time.time = lambda: real() + (jump if int(10 * (real() - began)) % 2 else 0.0)

    child = strike.start(step)
    if wait(child, strike.at(0.5, 2.0)) is None:
        os.kill(child, signal.SIGKILL)
        wait(child)
    return True


def mlflow_down(strike: Strike) -> bool:
    """The whole command with a tracking server that is not there, killed half-way or not at all."""
    line = [*strike.line, "tracking=mlflow", "tracking.uri=http://127.0.0.1:9"]
    line.remove("tracking=none")
    child = run_py(line, log=strike.log)
    if strike.dice.random() < 0.5 and wait(child, strike.at(0.5, 2.0)) is None:
        os.kill(child, signal.SIGKILL)
    wait(child)
    return True


def grading_workers(parent: int) -> list[int]:
    """Ids of a process's grading workers that live; a thread or a worker may end while one looks."""
    found = []
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError):
            workers = [int(child) for child in children.read_text().split()]
            found += [worker for worker in workers if b"harness.rewards.worker" in _command(worker)]
    return found


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def grader_killed(strike: Strike) -> bool:
    """A worker is killed while the run goes on, early enough that it may still be starting."""
    child = strike.start()
    if wait(child, lambda: bool(grading_workers(child))) is not None:
        return False
    time.sleep(strike.dice.choice((0.0, 0.05, 1.0, 2.0)))
    for worker in grading_workers(child)[: strike.dice.randint(1, 2)]:
        os.kill(worker, signal.SIGKILL)
    wait(child)
    return True


def grader_suspended(strike: Strike) -> bool:
    """A worker stands still for three seconds."""
    child = strike.start()
    if wait(child, lambda: bool(grading_workers(child))) is not None:
        return False
    workers = grading_workers(child)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    time.sleep(3.0)
    for worker in workers:
        if Path(f"/proc/{worker}").exists():
            os.kill(worker, signal.SIGCONT)
    wait(child)
    return True


OUTSIDE: dict[str, tuple[Fault, int]] = {
    "kill -9 at any time": (kill_any_time, 1),
    "kill -9 in the warm-up": (kill_in_warm_up, 1),
    "kill -9 at a byte of a record": (kill_at_a_record, 2),
    "kill -9 inside a save": (kill_inside_a_save, 2),
    "kill -9 inside an evaluation": (kill_inside_an_evaluation, 2),
    "SIGTERM or Ctrl-C": (terminate, 2),
    "hang, second launcher": (hang, 1),
    "disk quota": (file_limit, 2),
    "clock stepped": (clock_step, 1),
    "MLflow down": (mlflow_down, 1),
}
GRADERS: dict[str, tuple[Fault, int]] = {
    "grading worker killed": (grader_killed, 2),
    "grading worker suspended": (grader_suspended, 1),
}
