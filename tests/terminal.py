"""A pseudo-terminal with a screen: what a user sees of a command, moment by moment."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyte

from tests.conftest import ROOT


@dataclass
class Seen:
    """A command that has ended. first_s: seconds until the first character. screens: every different screen, as lines.

    lines: all that is left, scrolled away or not. code: exit code. raw: every byte.
    """

    first_s: float = 0.0
    screens: list[list[str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    code: int = -1
    raw: bytes = b""


def look(arguments: list[str], cwd: Path, columns: int, lines: int = 24, timeout_s: float = 600.0) -> Seen:
    """Types `run.py` with arguments on a terminal of a size, and looks until it has ended."""
    screen = pyte.HistoryScreen(columns, lines, history=2000)
    stream, seen = pyte.ByteStream(screen), Seen()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    while time.monotonic() - started < timeout_s:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(ours, 65536)
        except OSError:  # nobody holds the other end any more
            break
        seen.first_s = seen.first_s or time.monotonic() - started
        seen.raw += data
        stream.feed(data)
        shown = [line.rstrip() for line in screen.display]
        if not seen.screens or seen.screens[-1] != shown:
            seen.screens.append(shown)
    process.kill()
    seen.code = process.wait()
    os.close(ours)
    above = ["".join(line[x].data for x in range(columns)).rstrip() for line in screen.history.top]
    seen.lines = [*above, *(line.rstrip() for line in screen.display)]
    return seen
