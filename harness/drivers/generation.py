"""Where generation happens: inline in the learner's thread, or in workers beside it.

Work comes as requests already cut into fixed shards. A shard's tokens depend on its request and its version
alone, so who serves it, when, and beside what cannot matter.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from harness.models.sequences import Rollouts, concatenate
from harness.rollout.interface import Request, RolloutEngine, StateDict
from harness.weight_store import LiveStore, SnapshotStore


class Generation(Protocol):
    """version None: the newest published when the first shard starts."""

    def publish(self, version: int, weights: StateDict) -> None: ...

    def submit(self, shards: Sequence[Request], version: int | None, *, urgent: bool = False) -> Future[Rollouts]:
        """The shards' rollouts, joined in order. Urgent work (evaluation) goes before what waits."""
        ...

    def close(self) -> None:
        """Stops at once; what was submitted and not finished is lost."""
        ...


class InlineGeneration:
    """core=serial: work is done when it is submitted."""

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine
        self._store = LiveStore()

    def publish(self, version: int, weights: StateDict) -> None:
        self._store.publish(version, weights)
        self._engine.load(version, weights)

    def submit(self, shards: Sequence[Request], version: int | None, *, urgent: bool = False) -> Future[Rollouts]:
        self._store.acquire(version)
        future: Future[Rollouts] = Future()
        future.set_result(concatenate([self._engine.generate(shard) for shard in shards]))
        return future

    def close(self) -> None:
        self._engine.close()


@dataclass
class _Ticket:
    """One submission: shards left to start, and the rollouts that have come."""

    shards: Sequence[Request]
    version: int | None
    future: Future[Rollouts]
    started: int = 0
    done: dict[int, Rollouts] = field(default_factory=dict)


class WorkerGeneration:
    """core=overlapped and core=ray: one thread an engine takes shards from a common queue, in order.

    An error in a worker ends up in the future of its ticket and in every later call, with its traceback.
    """

    def __init__(self, engines: Sequence[RolloutEngine], max_versions: int) -> None:
        self._store = SnapshotStore(max_versions)
        self._queue: deque[_Ticket] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._engines = list(engines)
        self._threads = [
            threading.Thread(target=self._work, args=(engine,), name=f"rollout-{i}", daemon=True)
            for i, engine in enumerate(engines)
        ]
        for thread in self._threads:
            thread.start()

    def publish(self, version: int, weights: StateDict) -> None:
        self._raise_error()
        try:
            self._store.publish(version, weights)
        finally:
            self._raise_error()

    def submit(self, shards: Sequence[Request], version: int | None, *, urgent: bool = False) -> Future[Rollouts]:
        self._raise_error()
        if version is not None:
            self._store.acquire(version)
        ticket = _Ticket(shards, version, Future())
        with self._wake:
            if urgent:
                self._queue.appendleft(ticket)
            else:
                self._queue.append(ticket)
            self._wake.notify_all()
        return ticket.future

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._queue.clear()
            self._wake.notify_all()
        self._store.stop()
        for engine in self._engines:
            engine.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _work(self, engine: RolloutEngine) -> None:
        while (task := self._take()) is not None:
            ticket, index, version = task
            try:
                if engine.version != version:
                    engine.load(version, self._store.get(version))
                self._finish(ticket, index, engine.generate(ticket.shards[index]))
            except BaseException as error:
                self._fail(ticket, error)
                return

    def _take(self) -> tuple[_Ticket, int, int] | None:
        """The next shard and its version; None when closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._queue)
            if self._closed:
                return None
            ticket = self._queue[0]
            if ticket.version is None:
                ticket.version = self._store.acquire(None)
            index = ticket.started
            ticket.started += 1
            if ticket.started == len(ticket.shards):
                self._queue.popleft()
            return ticket, index, ticket.version

    def _finish(self, ticket: _Ticket, index: int, rollouts: Rollouts) -> None:
        with self._wake:
            ticket.done[index] = rollouts
            complete = len(ticket.done) == len(ticket.shards)
        if complete:
            assert ticket.version is not None
            self._store.release(ticket.version)
            ticket.future.set_result(concatenate([ticket.done[i] for i in range(len(ticket.shards))]))

    def _fail(self, ticket: _Ticket, error: BaseException) -> None:
        with self._wake:
            if self._closed:
                return
            self._error = self._error or error
            waiting = [ticket, *self._queue]
            self._queue.clear()
        for lost in waiting:
            if not lost.future.done():
                lost.future.set_exception(error)
        self._store.stop()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
