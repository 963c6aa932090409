"""Signals and Ctrl-C ask a run to stop at the next safe point; a second Ctrl-C stops it where it is.

SIGTERM and SIGHUP do, and SIGUSR1 and SIGUSR2, by which schedulers warn of a time limit.

What the main thread waits for (a rollout, room for a version) may take minutes; once a stop was asked for it
waits PATIENCE_S more, and then the run ends at its last checkpoint.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

PATIENCE_S = 2.0
UNLESS_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # nohup
ASKING = (signal.SIGTERM, signal.SIGINT, *UNLESS_IGNORED)

T = TypeVar("T")
_requested: list[str] = []
_requested_at: list[float] = []


class Interrupted(RuntimeError):
    """The run stopped on request. At a safe point there is a checkpoint of that very moment."""


class Paused(RuntimeError):
    """The run reached its `stop_at` and saved a checkpoint there; the message says where that was."""


def requested() -> str | None:
    """The signal that asked this process to stop, None if none did."""
    return _requested[0] if _requested else None


def give_up_if_overdue() -> None:
    """For loops that wait: raises Interrupted when a stop was asked for more than PATIENCE_S seconds ago."""
    if _requested_at and time.monotonic() - _requested_at[0] > PATIENCE_S:
        raise Interrupted(f"{_requested[0]}, without waiting for the rollouts in flight")


def result_of(future: Future[T]) -> T:
    """What a future results in, or raises.

    Raises Interrupted when a stop is overdue.
    """
    while True:
        try:
            return future.result(timeout=0.1)
        except TimeoutError:
            if future.done():
                raise  # the work itself timed out
            give_up_if_overdue()


def _note(number: int, _: FrameType | None) -> None:
    if _requested and number == signal.SIGINT:
        raise KeyboardInterrupt
    _requested.append(signal.Signals(number).name)
    _requested_at.append(time.monotonic())


@contextmanager
def graceful() -> Iterator[None]:
    """Installs the handlers while the block runs (in the main thread; elsewhere nothing can be installed).

    A hangup that is ignored stays so, and SIGUSR1 and SIGUSR2.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ASKING}
    for number in ASKING:
        if number not in UNLESS_IGNORED or before[number] != signal.SIG_IGN:
            signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
