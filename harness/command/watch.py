"""What a command shows while its cells run, read from the run folders: on a terminal a line for each running cell and
the time left of all, elsewhere one line a minute.

What is written to the terminal meanwhile, by this process or by those of the cells, comes through a pipe and stands
above the display.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.command.pace import Pace, clock, together_s
from harness.command.plan import Plan
from harness.errors import printable
from harness.progress import DISPLAYED, QUIET, now
from harness.records.layout import EVAL
from harness.records.state import status_of
from harness.records.tail import last_row, rows

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 60.0  # where there is no terminal
ENOUGH = 10  # updates after which the time left is worth a line
LAYOUTS = ((20, 5), (0, 5), (0, 3), (0, 2), (0, 1), (0, 0))  # characters of the bar, numbers; the first that fits
IN_LABEL = ("algo", "staleness", "seed", "experiment")
RECORDS = (OSError, ValueError, LookupError, TypeError)  # a folder that is being written, or was damaged


@contextmanager
def watching(plan: Plan, every_s: float = SECONDS_BETWEEN_LINES) -> Iterator[None]:
    """Shows the plan's cells while the block runs, unless quiet. every_s: seconds between lines without a terminal."""
    if QUIET in os.environ:
        yield
        return
    view, stop = View(plan), threading.Event()
    show = _Screen(view) if sys.stderr.isatty() else _Lines(view, every_s)
    thread = threading.Thread(target=show.until, args=(stop,), name="watch", daemon=True)
    thread.start()
    if plan.parallel:
        os.environ[DISPLAYED] = "1"  # inherited by the processes of the cells: one display, not one a cell
    try:
        yield
    finally:
        os.environ.pop(DISPLAYED, None)
        stop.set()
        thread.join()


class View:
    """The cells of a plan as they stand, and as lines."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._labels = labels(plan)
        self._paces = [Pace(cell) for cell in plan.cells]
        self._statuses = ["waiting"] * len(plan.cells)
        self._began = time.monotonic()

    def look(self) -> None:
        """Reads the run folders."""
        for i, cell in enumerate(self._plan.cells):
            if self._statuses[i] != "finished":
                self._statuses[i] = status_of(cell.folder)
                self._paces[i].look()

    def _in(self, *statuses: str) -> list[Pace]:
        return [pace for pace, status in zip(self._paces, self._statuses, strict=True) if status in statuses]

    @property
    def updates(self) -> int:
        """Updates done, of all cells."""
        return sum(pace.update for pace in self._paces)

    def summary(self) -> str:
        """ "4 runs: 1 finished, 2 running, 1 waiting · 38 % · 2:10 left"."""
        counts = Counter(self._statuses)
        n = len(self._paces)
        states = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        share = self.updates / sum(cell.updates for cell in self._plan.cells)
        return f"{n} runs: {states} · {100 * share:.0f} % · {self.left()}" if n > 1 else self.left()

    def left(self) -> str:
        """How long all of it still takes, or has taken so far."""
        ahead = ("waiting", "interrupted", "paused")  # what an earlier command has left is run again
        seconds = together_s(self._in("running"), self._in("finished"), self._in(*ahead), self._at_once())
        if seconds is None:
            return f"{clock(time.monotonic() - self._began)} so far"
        return f"{'at most ' if self._plan.rungs else ''}{clock(seconds)} left"

    def _at_once(self) -> int:
        return len(self._in("running")) if self._plan.parallel else 1

    def display(self, width: int, height: int) -> Group:
        """What stands on a terminal of this size, in characters: nothing is cut, narrower is fewer columns."""
        running = [i for i, status in enumerate(self._statuses) if status == "running"]
        shown = running[: max(1, height - 4)]
        more = [Text(f"and {len(running) - len(shown)} more")] if len(running) > len(shown) else []
        for bar, numbers in LAYOUTS:
            lines = [self._cells(i, bar, numbers) for i in shown]
            if _width(lines) <= width:
                break
        table = Table.grid(padding=(0, 2, 0, 0))
        for line in lines:
            table.add_row(*line)
        return Group(*[Text(self.summary(), style="bold")] * (len(self._paces) > 1), table, *more)

    def line(self) -> str:
        """All of it in one line of a log."""
        if len(self._paces) > 1:
            return self.summary()
        pace = self._paces[0]
        done = now() if pace.config.mode == "evaluate" else f"{pace.update}/{pace.config.updates}"
        return " · ".join([self._labels[0], done, *self._numbers(0, 2), self.left()])

    def _cells(self, i: int, bar: int, numbers: int) -> list[Text | ProgressBar]:
        """One running cell: bar (of so many characters), update, so many numbers, time left."""
        pace, total = self._paces[i], self._paces[i].config.updates
        if not pace.row or pace.config.mode == "evaluate":
            note = "" if self._plan.parallel else now()
            return [Text(self._labels[i]), Text(note or "starting")]
        left = pace.left_s()
        bars = [ProgressBar(total, pace.update, width=bar)] * bool(bar)
        last = now() if now() and not self._plan.parallel else "" if left is None else f"{clock(left)} left"
        texts = [f"{pace.update}/{total}", *self._numbers(i, numbers), last]
        return [Text(self._labels[i]), *bars, *(Text(text, no_wrap=True) for text in texts)]

    def _numbers(self, i: int, most: int) -> Iterator[str]:
        row, evaluation = self._paces[i].row, accuracy(self._paces[i])
        numbers = {
            "accuracy": None if evaluation is None else f"{evaluation:.3f}",
            "masked": None if row.get("masked_fraction") is None else f"{100 * row['masked_fraction']:.2f}%",
            "reward": None if row.get("reward") is None else f"{row['reward']:.3f}",
            "M2": None if row.get("m2_before") is None else f"{row['m2_before']:.4f}",
            "grad": None if row.get("grad_norm") is None else f"{row['grad_norm']:.2f}",
        }
        return (f"{name} {text or '–'}" for name, text in list(numbers.items())[:most])


def _width(lines: Sequence[Sequence[Text | ProgressBar]]) -> int:
    """Characters that lines take beside each other, two after each column."""
    columns = zip_longest(*lines, fillvalue=Text())
    return sum(2 + max(cell.width or 0 if isinstance(cell, ProgressBar) else len(cell) for cell in c) for c in columns)


def accuracy(pace: Pace) -> float | None:
    """The newest accuracy of a cell on validation."""
    last = last_row(pace.config.folder / EVAL)
    if last is None or last["split"] == "validation":
        return None if last is None else float(last["sampled_accuracy"])
    found = [row["sampled_accuracy"] for row, _ in rows(pace.config.folder / EVAL) if row["split"] == "validation"]
    return float(found[-1]) if found else None


def varied(plan: Plan) -> list[str]:
    """The keys besides method, staleness and seed in which the cells of a command differ."""
    given = _given(plan)
    keys = dict.fromkeys(key for words in given for key in words)
    return [key for key in keys if key not in IN_LABEL and len({words.get(key) for words in given}) > 1]


def _given(plan: Plan) -> list[dict[str, str]]:
    """The overrides of each cell, by key."""
    return [dict(word.lstrip("+").split("=", 1) for word in line if "=" in word) for line in plan.overrides]


def labels(plan: Plan) -> list[str]:
    """What tells each cell apart: its own label, and whatever else was varied."""
    given, keys = _given(plan), varied(plan)
    return [
        " ".join([cell.label, *(f"{key.rpartition('.')[2]}={words[key]}" for key in keys if key in words)])
        for cell, words in zip(plan.cells, given, strict=True)
    ]


class _Lines:
    """Without a terminal: a line as soon as the time left is known, then one a minute."""

    def __init__(self, view: View, every_s: float) -> None:
        self._view, self._every_s = view, every_s

    def until(self, stop: threading.Event) -> None:
        said = time.monotonic()
        is_first = True
        while not stop.wait(min(SECONDS_BETWEEN_LOOKS, self._every_s)):
            due = time.monotonic() - said >= self._every_s
            if not (is_first or due):
                continue
            try:
                self._view.look()
                if due or self._view.updates >= ENOUGH:
                    print(self._view.line(), file=sys.stderr, flush=True)
                    said, is_first = time.monotonic(), False
            except RECORDS:
                continue  # the next look will do


class _Screen:
    """On a terminal: the display, and above it whatever is written meanwhile."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._screens = {fd: os.dup(fd) for fd in (1, 2) if os.isatty(fd)}
        self._reader, writer = os.pipe()
        for fd in self._screens:
            os.dup2(writer, fd)
        os.close(writer)
        self._rest = b""

    def until(self, stop: threading.Event) -> None:
        try:
            with open(self._screens[2], "w", encoding="utf-8", errors="replace", closefd=False) as terminal:
                console = Console(file=terminal, force_terminal=True)
                with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False,
                          redirect_stderr=False) as live:  # fmt: skip
                    console.show_cursor(True)  # also when this process is killed
                    while not stop.is_set():
                        self._refresh(live)
                        self._pass_on(live, stop)
        finally:
            self._give_back()

    def _refresh(self, live: Live) -> None:
        try:
            console, size = live.console, os.get_terminal_size(self._screens[2])
            if size.columns and size.lines:
                console.size = size
            self._view.look()
            live.update(self._view.display(console.width, console.height), refresh=True)
        except RECORDS:
            return  # the next look will do

    def _pass_on(self, live: Live, stop: threading.Event) -> None:
        """Prints the whole lines that come until the next look."""
        end = time.monotonic() + SECONDS_BETWEEN_LOOKS
        while time.monotonic() < end and not stop.is_set():
            if select.select([self._reader], [], [], 0.1)[0]:
                *lines, self._rest = (self._rest + os.read(self._reader, 65536)).split(b"\n")
                for line in lines:
                    live.console.print(Text(_plain(line), overflow="fold"))

    def _give_back(self) -> None:
        """Everything as it was, and what had not been printed yet."""
        for fd, screen in self._screens.items():
            os.dup2(screen, fd)
        while select.select([self._reader], [], [], 0)[0] and (more := os.read(self._reader, 65536)):
            self._rest += more
        os.write(self._screens[2], self._rest)
        for fd in (self._reader, *self._screens.values()):
            os.close(fd)


def _plain(line: bytes) -> str:
    """A line without what would steer the terminal."""
    return printable(line.decode(errors="replace").rpartition("\r")[2].removeprefix("\x1b[K"))
