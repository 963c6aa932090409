"""A sweep's cells in processes of their own, several at a time: what hydra/launcher=joblib stands for.

joblib itself ends every worker when one is killed, and leaves all of them running when the launcher is. Here a killed
process costs its own cell the updates since its checkpoint, and is started again; and a cell that loses its launcher
stops with a checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess

from harness import interrupts
from harness.command.output import outlive_readers

STARTS = 3  # of one cell: what is killed as often does not fit on this machine
LOST = 255  # exit code of a process of which nothing more is known
LAST_WORDS_S = 10.0  # after a second Ctrl-C

Cell = Callable[[], object]  # runs what sys.argv says; found again by its name in another process


@dataclass
class Started:
    """A cell's process. words: its overrides. starts: how often it has been started. asked: to stop."""

    words: Sequence[str]
    process: ForkServerProcess
    starts: int = 1
    asked: bool = False

    def ask_to_stop(self) -> None:
        """By SIGTERM, once: a checkpoint, then the end."""
        if not self.asked:
            self.process.terminate()
        self.asked = True


def run_cells(cell: Cell, lines: Sequence[Sequence[str]], jobs: int) -> None:
    """Runs cells until each has ended, or those that have begun once a signal has asked to stop.

    cell: runs one.
    lines: overrides of each.
    jobs: cells at a time; counted as joblib does, -1 for every core, -2 for all but one.
    """
    most = jobs if jobs > 0 else max(1, _cores() + 1 + jobs)
    start = _starter(cell)
    waiting, running = deque(lines), list[Started]()
    with interrupts.graceful():
        try:
            while running or (waiting and not interrupts.requested()):
                while waiting and len(running) < most and not interrupts.requested():
                    words = waiting.popleft()
                    running.append(Started(words, start(words)))
                wait([one.process.sentinel for one in running], timeout=0.2)
                if interrupts.requested():
                    _ask_to_stop(running)
                running = [one for one in running if _goes_on(one, start)]
        finally:
            _end(running)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _starter(cell: Cell) -> Callable[[Sequence[str]], ForkServerProcess]:
    """What starts a process, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.command.cell_server"])
    ignored = [number for number in interrupts.UNLESS_IGNORED if signal.getsignal(number) is signal.SIG_IGN]

    def start(words: Sequence[str]) -> ForkServerProcess:
        process = context.Process(target=_work, args=(cell, list(words), ignored))
        process.start()
        return process

    return start


def _work(cell: Cell, words: list[str], ignored: list[signal.Signals]) -> None:
    """What a cell's process does. ignored: signals that its launcher ignores."""
    for number in {signal.SIGTERM, *interrupts.UNLESS_IGNORED}.difference(ignored):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_follow_launcher, name="launcher", daemon=True).start()
    outlive_readers()
    sys.argv[1:] = [*words, "hydra.mode=RUN"]
    cell()


def _follow_launcher() -> None:
    """Asks this process to stop when its launcher is no more."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _goes_on(one: Started, start: Callable[[Sequence[str]], ForkServerProcess]) -> bool:
    """Whether a cell is still being run; one whose process was killed is started again."""
    code = one.process.exitcode
    if code is None:
        return True
    if (code >= 0 and code != LOST) or interrupts.requested():
        return False
    how = signal.Signals(-code).name if code < 0 else "nobody knows how"
    again = one.starts < STARTS
    then = "it is started again" if again else f"{STARTS} times now; the same command tries again"
    print(f"{' '.join(one.words)}: its process was killed ({how}); {then}", file=sys.stderr, flush=True)
    if again:
        one.process, one.starts = start(one.words), one.starts + 1
    return again


def _ask_to_stop(running: Sequence[Started]) -> None:
    for one in running:
        one.ask_to_stop()


def _end(running: Sequence[Started]) -> None:
    """Leaves no process behind, whatever happened here."""
    _ask_to_stop(running)
    for one in running:
        one.process.join(LAST_WORDS_S)
        one.process.kill()
