"""A thread that feeds one engine with chunks, as many at once as the engine serves."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from harness.drivers.tickets import EngineLost, Ticket, Tickets
from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.rollout.interface import Engine, StateDict, chunks_of

ALL_LOST_S = 300.0  # without any engine: importing torch and loading a model, on a slow disk


class Absences:
    """How many of the engines are not there, and since when nobody has come or gone."""

    def __init__(self, engines: int) -> None:
        self._engines, self._absent, self._changed = engines, 0, time.monotonic()
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """While an engine is not there."""
        self._count(1)
        yield
        self._count(-1)

    def check(self) -> None:
        """Raises RunFailed when no engine has been there for ALL_LOST_S."""
        with self._lock:
            if self._absent == self._engines and time.monotonic() - self._changed > ALL_LOST_S:
                raise RunFailed(f"no rollout engine has been ready for {ALL_LOST_S:.0f} s")

    def _count(self, more: int) -> None:
        with self._lock:
            self._absent, self._changed = self._absent + more, time.monotonic()


class Worker:
    """All chunks that an engine has at one time are of the version that it has loaded.

    So a further one is taken beside them only if it is that version's, and another version is loaded when none is
    left, or (updating) takes over all of them at once.

    engine: that samples. One that is elsewhere may be lost (EngineLost): its chunks go to others, and it takes none
    until it is `ready` again.
    tickets: what all workers take from. store: the versions. absences: of all engines.
    threads: of torch.
    updating: the engine may take over a newer version in the middle of its chunks (`engine.newer`).
    """

    def __init__(
        self,
        engine: Engine,
        tickets: Tickets,
        store: SnapshotStore,
        absences: Absences,
        threads: int,
        *,
        updating: bool,
    ) -> None:
        self._engine, self._chunks = engine, chunks_of(engine)
        self._tickets, self._store, self._absences = tickets, store, absences
        self._threads, self._updating = threads, updating
        self._running: dict[int, Ticket] = {}
        self._numbers = itertools.count()

    def run(self) -> None:
        """Until closed. Any error stops every worker."""
        # Each thread has its own number of OpenMP threads; another one would add in another order.
        torch.set_num_threads(self._threads)
        try:
            while self._until_ready():
                try:
                    self._serve()
                except EngineLost as error:
                    self._tickets.give_back(list(self._running.values()), error)
                    self._running.clear()
        except BaseException as error:  # whatever it is belongs to the main loop
            self._tickets.fail(error)

    def _until_ready(self) -> bool:
        """Waits for an engine that is elsewhere. Returns False when closed."""
        ready: Callable[[], bool] = getattr(self._engine, "ready", lambda: True)
        with self._absences.one():
            while not self._tickets.closed and not ready():
                self._absences.check()
        return not self._tickets.closed

    def _serve(self) -> None:
        while not self._tickets.closed:
            self._take()
            if self._running:
                for number, rollouts in self._chunks.poll().items():
                    self._tickets.finish(self._running.pop(number), rollouts)

    def _take(self) -> None:
        """As many chunks as there are and the engine may have now; waits only where it has none."""
        while len(self._running) < self._chunks.at_once:
            alone = not self._running
            ticket = self._tickets.take() if alone else self._tickets.take_beside(self._engine.version)
            if ticket is None:
                return
            number = next(self._numbers)
            self._running[number] = ticket
            assert ticket.version is not None
            if alone and self._engine.version != ticket.version:
                self._engine.load(ticket.version, self._store.get(ticket.version))
            if self._updating:
                self._engine.newer = self._newer
            self._chunks.submit(number, ticket.request)

    def _newer(self) -> tuple[int, StateDict] | None:
        """The newest version, if the running chunks are not yet served by it; they hold it from now on."""
        newest = self._tickets.renew(list(self._running.values()))
        return None if newest is None else (newest, self._store.get(newest))
