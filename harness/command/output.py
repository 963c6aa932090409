"""Standard output and error that outlive their readers: `run.py … | head`, a terminal that was closed."""

from __future__ import annotations

import io
import sys
from typing import Any


class _Lasting(io.FileIO):
    """A file that swallows what can no longer be written: what a run is stands in its folder."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


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
