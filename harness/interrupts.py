"""SIGTERM and Ctrl-C ask a run to stop at the next safe point; a second Ctrl-C stops it where it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_requested: list[str] = []


def requested() -> str | None:
    """The signal that asked this process to stop, None if none did."""
    return _requested[0] if _requested else None


def _note(number: int, _: FrameType | None) -> None:
    if _requested and number == signal.SIGINT:
        raise KeyboardInterrupt
    _requested.append(signal.Signals(number).name)


@contextmanager
def graceful() -> Iterator[None]:
    """Installs the handlers while the block runs (in the main thread; elsewhere nothing can be installed)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
