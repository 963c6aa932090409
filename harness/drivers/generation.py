"""Where generation happens: inline in the learner's thread, or in workers beside it.

The unit of work is a chunk, a request cut from a rollout batch. Its tokens depend on the request and the
version alone, so who serves it, when, and beside what cannot matter.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch

from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.rollout.interface import RolloutEngine, StateDict
from harness.types import Request, Rollouts

ATTEMPTS = 3  # at one chunk: what fails as often is no accident
ALL_LOST_S = 300.0  # without any engine: importing torch and loading a model, on a slow disk


class EngineLost(Exception):
    """An engine went away with the chunk it had; another one may have the chunk."""


class Generation(Protocol):
    """Serves requests with published versions of the weights."""

    def publish(self, version: int, weights: StateDict) -> None:
        """Makes a version the newest; may wait for room. Raises what stopped a worker, and Interrupted."""
        ...

    def submit(self, request: Request, version: int | None, *, urgent: bool = False) -> Future[Rollouts]:
        """Asks for the samples of a request.

        version: that must sample them; None: the newest when the work starts.
        urgent: goes before what waits (evaluation).
        Returns the rollouts to come. Raises what stopped a worker, and KeyError for a version that is gone.
        """
        ...

    def check(self) -> None:
        """Raises what stopped a worker, if anything did."""
        ...

    def idle_s(self) -> float:
        """Seconds the workers have waited for work since the last call, on average over them."""
        ...

    def seconds(self) -> dict[str, float]:
        """Seconds of generation, scoring and publication since the last call, added up over the engines."""
        ...

    def close(self) -> None:
        """Stops at once; what was submitted and not finished is lost."""
        ...


class InlineGeneration:
    """driver=serial: work is done when it is submitted, with the learner's own weights."""

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine

    def publish(self, version: int, weights: StateDict) -> None:
        self._engine.load(version, weights)

    def submit(self, request: Request, version: int | None, *, urgent: bool = False) -> Future[Rollouts]:
        assert version in (None, self._engine.version), (
            f"version {version} is gone; only {self._engine.version} is kept"
        )
        future: Future[Rollouts] = Future()
        future.set_result(self._engine.generate(request))
        return future

    def check(self) -> None:
        """Errors have been raised where they happened."""

    def idle_s(self) -> float:
        return 0.0

    def seconds(self) -> dict[str, float]:
        return _emptied([self._engine])

    def close(self) -> None:
        self._engine.close()


@dataclass(eq=False)
class _Ticket:
    request: Request
    version: int | None
    future: Future[Rollouts] = field(default_factory=Future)
    lost: int = 0


class WorkerGeneration:
    """driver=overlapped and driver=ray: a thread for each engine takes tickets from one queue, in order.

    An error in a worker ends up in every future that waits and in every later call, with its traceback. An engine that
    is elsewhere may be lost (EngineLost): its chunk goes to another one, and it takes none until it is `ready` again.

    engines: one for each worker.
    store: the versions they load.
    threads: of torch, for each worker.
    finally_: called once, after the engines are closed.
    in_flight: engines may take over a newer version in the middle of a chunk (`engine.newer`).
    """

    def __init__(
        self,
        engines: Sequence[RolloutEngine],
        store: SnapshotStore,
        threads: int = 1,
        finally_: Callable[[], None] = lambda: None,
        *,
        in_flight: bool = False,
    ) -> None:
        self._store = store
        self._in_flight = in_flight
        self._finally = finally_
        self._threads_of_torch = threads
        self._queue: deque[_Ticket] = deque()
        self._running: list[_Ticket] = []
        self._wake = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._lost, self._last_ready = 0, time.monotonic()
        self._engines = list(engines)
        self._idle = [0.0] * len(engines)
        self._threads = [
            threading.Thread(target=self._work, args=(i, engine), name=f"rollout-{i}", daemon=True)
            for i, engine in enumerate(engines)
        ]
        for thread in self._threads:
            thread.start()

    def publish(self, version: int, weights: StateDict) -> None:
        self.check()
        try:
            self._store.publish(version, weights)
        finally:
            self.check()

    def submit(self, request: Request, version: int | None, *, urgent: bool = False) -> Future[Rollouts]:
        self.check()
        if version is not None:
            self._store.acquire(version)
        ticket = _Ticket(request, version)
        with self._wake:
            if urgent:
                self._queue.appendleft(ticket)
            else:
                self._queue.append(ticket)
            self._wake.notify()
        return ticket.future

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def idle_s(self) -> float:
        with self._wake:
            total = sum(self._idle)
            self._idle = [0.0] * len(self._idle)
        return total / len(self._engines)

    def seconds(self) -> dict[str, float]:
        return _emptied(self._engines)

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._queue.clear()
            self._wake.notify_all()
        self._store.stop()
        for engine in self._engines:
            engine.close()
        for thread in self._threads:
            thread.join(timeout=1)
        self._finally()

    def _work(self, index: int, engine: RolloutEngine) -> None:
        # Each thread has its own number of OpenMP threads; another one would add in another order.
        torch.set_num_threads(self._threads_of_torch)
        try:
            while self._until_ready(engine) and (ticket := self._take(index)) is not None:
                self._serve(engine, ticket)
        except BaseException as error:  # whatever it is belongs to the main loop
            self._fail(error)

    def _serve(self, engine: RolloutEngine, ticket: _Ticket) -> None:
        assert ticket.version is not None
        try:
            if engine.version != ticket.version:
                engine.load(ticket.version, self._store.get(ticket.version))
            if self._in_flight:
                engine.newer = functools.partial(self._newer, ticket)
            self._finish(ticket, engine.generate(ticket.request))
        except EngineLost as error:
            self._give_back(ticket, error)

    def _until_ready(self, engine: RolloutEngine) -> bool:
        """Waits for an engine that is elsewhere. Returns False when closed.

        Raises RunFailed when no engine has been ready for ALL_LOST_S.
        """
        ready: Callable[[], bool] = getattr(engine, "ready", lambda: True)
        since = time.monotonic()
        with self._wake:
            self._lost += 1
        while not self._closed and not ready():
            with self._wake:
                if self._lost == len(self._engines) and time.monotonic() - max(since, self._last_ready) > ALL_LOST_S:
                    raise RunFailed(f"no rollout engine has been ready for {ALL_LOST_S:.0f} s")
        with self._wake:
            self._lost -= 1
            self._last_ready = time.monotonic()
        return not self._closed

    def _give_back(self, ticket: _Ticket, error: EngineLost) -> None:
        """The chunk of a lost engine, to the front of the queue. Raises RunFailed for one lost too often."""
        ticket.lost += 1
        if ticket.lost == ATTEMPTS:
            raise RunFailed(f"rollout engines failed {ATTEMPTS} times on one chunk: {error}") from error
        with self._wake:
            self._running.remove(ticket)
            self._queue.appendleft(ticket)
            self._wake.notify()

    def _take(self, index: int) -> _Ticket | None:
        """The next ticket, its version fixed; None when closed."""
        waited_from = time.perf_counter()
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._queue)
            self._idle[index] += time.perf_counter() - waited_from
            if self._closed:
                return None
            ticket = self._queue.popleft()
            if ticket.version is None:
                ticket.version = self._store.acquire(None)
            self._running.append(ticket)
            return ticket

    def _newer(self, ticket: _Ticket) -> tuple[int, StateDict] | None:
        """The newest version, if the ticket is not yet served by it; the ticket holds it from now on."""
        held = ticket.version
        assert held is not None
        if self._store.newest == held:
            return None
        ticket.version = self._store.acquire(None)
        self._store.release(held)
        return ticket.version, self._store.get(ticket.version)

    def _finish(self, ticket: _Ticket, rollouts: Rollouts) -> None:
        assert ticket.version is not None
        self._store.release(ticket.version)
        with self._wake:
            self._running.remove(ticket)
            if not ticket.future.done():
                ticket.future.set_result(rollouts)

    def _fail(self, error: BaseException) -> None:
        with self._wake:
            if self._closed:
                return
            self._error = self._error or error
            for ticket in [*self._running, *self._queue]:
                if not ticket.future.done():
                    ticket.future.set_exception(error)
            self._queue.clear()
        self._store.stop()


def _emptied(engines: Sequence[RolloutEngine]) -> dict[str, float]:
    """What the engines' clocks have counted, each kind of work named; they begin anew."""
    total = dict.fromkeys(("generation", "scoring", "publication"), 0.0)
    for engine in engines:
        counted, engine.seconds = engine.seconds, defaultdict(float)
        for what, seconds in counted.items():
            total[what] += seconds
    return total
