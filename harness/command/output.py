"""The program as it was started: its name, and standard streams that outlive their readers (`run.py … | head`)."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path
from typing import Any


def program() -> str:
    """What starts LagRange, as it was typed: `python run.py`, or `lagrange` where it is installed."""
    path = Path(sys.argv[0])
    return f"python {shlex.quote(sys.argv[0])}" if path.suffix == ".py" else "lagrange"


class _Lasting(io.FileIO):
    """A file that swallows what can no longer be written: what a run is stands in its folder."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def open_closed_streams() -> None:
    """Gives a process that was started without standard streams (`>&-`, a daemon) silent ones.

    Otherwise the next file that is opened would get their numbers, and what is printed by whoever is started from here.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
    sys.stderr = sys.stderr or io.TextIOWrapper(io.FileIO(2, "w", closefd=False))


def outlive_readers() -> None:
    """Replaces sys.stdout and sys.stderr by streams that go quiet when nobody reads them any more."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        raw = _Lasting(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=True
        )
        setattr(sys, name, lasting)
