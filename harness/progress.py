"""What a command says while it works: a line that gives way to the next, and lines that stay, all on standard error."""

from __future__ import annotations

import os
import shutil
import sys

QUIET = "LAGRANGE_QUIET"  # set where only warnings are wanted: quiet=true
VARIED = "LAGRANGE_VARIED"  # set by run.py for the processes of its cells: keys in which they differ, by commas
DISPLAYED = "LAGRANGE_DISPLAYED"  # set for processes whose runs another one displays

_now: list[str] = [""]  # what the run in this process is at; a process has one at a time


def status(text: str) -> None:
    """Shows what the command is at, on a terminal, until the next text; "" takes it away."""
    if _speaks() and sys.stderr is not None and sys.stderr.isatty():  # None: started without standard streams
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r\x1b[K" + text[:width])
        sys.stderr.flush()


def _speaks() -> bool:
    return QUIET not in os.environ and DISPLAYED not in os.environ


def now() -> str:
    """What the run in this process is at ("evaluating"); "" where nothing needs saying, or no run is here."""
    return _now[0]


class Progress:
    """What one run says.

    label: what each line begins with.
    """

    def __init__(self, label: str) -> None:
        self._label = label

    def note(self, text: str) -> None:
        """Something that takes a while; "": no more."""
        _now[0] = text
        status(text)

    def say(self, text: str) -> None:
        """A line that stays, also in a log; not where another display shows the run."""
        if _speaks():
            self.warn(text)

    def warn(self, text: str) -> None:
        """A line that is said even where nobody watches."""
        status("")
        sys.stderr.write(f"{self._label}: {text}\n")
        sys.stderr.flush()
