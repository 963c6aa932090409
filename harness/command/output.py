"""The program as it was started: its name, and standard streams that outlive their readers (`run.py … | head`)."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any


def program() -> str:
    """The name of what starts LagRange: `python run.py`, or `lagrange` where it is installed."""
    return f"python {shlex.quote(sys.argv[0])}" if Path(sys.argv[0]).suffix == ".py" else "lagrange"


def starter() -> str:
    """What starts LagRange again from here: `program`, with the path of what the shell would not find by its name."""
    path = Path(sys.argv[0])
    return f"{python()} {shlex.quote(sys.argv[0])}" if path.suffix == ".py" else _typed("lagrange", path)


def python() -> str:
    """What starts this Python from here: `python`, or its path where that would start another one, or none."""
    return _typed("python", Path(sys.executable))


def _typed(name: str, file: Path) -> str:
    """A name, where the shell finds it in the file's folder, else the file's path, from here where it is below."""
    found, here = shutil.which(name), Path.cwd()
    if not file.exists() or (found and Path(found).absolute().parent == file.absolute().parent):
        return name
    return shlex.quote(str(file.relative_to(here) if file.is_relative_to(here) else file))


def counted(number: int, one: str, many: str = "") -> str:
    """1 cell, 2 cells."""
    return f"{number} {one if number == 1 else many or one + 's'}"


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
