"""The chunks that were asked for and are not yet generated: one queue, from which every worker takes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.types import Request, Rollouts

ATTEMPTS = 3  # at one chunk: what fails as often is no accident


class EngineLost(Exception):
    """An engine went away with the chunks it had; others may have them."""


@dataclass(eq=False)
class Ticket:
    """A chunk, and the version that serves it, kept alive in the weight store as long as the ticket names it.

    version: None until it is taken, where the newest was asked for.
    pinned: a version was asked for by name, so no newer one may take its place.
    lost: engines that went away with it.
    """

    request: Request
    version: int | None
    pinned: bool
    future: Future[Rollouts] = field(default_factory=Future)
    lost: int = 0


class Tickets:
    """In order: who takes one takes the first, or none.

    store: of the versions.
    error: what stopped a worker.
    running: tickets that were taken and are not done.
    """

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._queue: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._waiting = 0  # workers without any chunk
        self._idle_s = 0.0
        self.running: list[Ticket] = []
        self.closed = False
        self.error: BaseException | None = None

    def put(self, request: Request, version: int | None, *, urgent: bool) -> Future[Rollouts]:
        """A new ticket, the last one or (urgent) the first.

        Raises what stopped a worker, and KeyError for a version that is gone.
        """
        if version is not None:
            self._store.acquire(version)
        ticket = Ticket(request, version, pinned=version is not None)
        with self._wake:
            if self.error is not None:  # nobody may be left to take it
                raise self.error
            if urgent:
                self._queue.appendleft(ticket)
            else:
                self._queue.append(ticket)
            self._wake.notify()
        return ticket.future

    def take(self) -> Ticket | None:
        """The first ticket, its version fixed, for a worker that has none: waits for it. None when closed."""
        waited_from = time.perf_counter()
        with self._wake:
            self._waiting += 1
            self._wake.wait_for(lambda: self.closed or self._queue)
            self._waiting -= 1
            self._idle_s += time.perf_counter() - waited_from
            return None if self.closed else self._taken(None)

    def take_beside(self, version: int) -> Ticket | None:
        """The first ticket, for a worker whose chunks are of a version; None if that is not the one to sample it.

        A ticket for the newest version is left when there is a newer one: who has chunks of the older version takes no
        more, so that they end and the newer one is loaded. Workers without any chunk go before.
        """
        with self._wake:
            if self.closed or len(self._queue) <= self._waiting:
                return None
            asked = self._queue[0].version
            return self._taken(version) if version == (self._store.newest if asked is None else asked) else None

    def _taken(self, version: int | None) -> Ticket:
        """The first ticket. version: that serves it if the newest was asked for; None: the newest of now."""
        ticket = self._queue.popleft()
        if ticket.version is None:
            ticket.version = self._store.acquire(version)
        self.running.append(ticket)
        return ticket

    def renew(self, tickets: Sequence[Ticket]) -> int | None:
        """The newest version, which serves the tickets from now on; None where it does already, or where one is pinned.

        tickets: all that an engine has, of one version.
        """
        held = tickets[0].version
        assert held is not None
        if self._store.newest == held or any(ticket.pinned for ticket in tickets):
            return None
        newest = self._store.acquire(None)
        for ticket in tickets[1:]:
            ticket.version = self._store.acquire(newest)
        tickets[0].version = newest
        for _ in tickets:
            self._store.release(held)
        return newest

    def finish(self, ticket: Ticket, rollouts: Rollouts) -> None:
        assert ticket.version is not None
        self._store.release(ticket.version)
        with self._wake:
            self.running.remove(ticket)
            if not ticket.future.done():
                ticket.future.set_result(rollouts)

    def give_back(self, tickets: Sequence[Ticket], error: EngineLost) -> None:
        """The chunks of a lost engine, to the front in their order. Raises RunFailed for one lost too often."""
        for ticket in tickets:
            ticket.lost += 1
            if ticket.lost == ATTEMPTS:
                raise RunFailed(f"rollout engines failed {ATTEMPTS} times on one chunk: {error}") from error
        with self._wake:
            for ticket in tickets:
                self.running.remove(ticket)
            self._queue.extendleft(reversed(tickets))
            self._wake.notify_all()

    def fail(self, error: BaseException) -> None:
        """What stopped a worker: every ticket's future raises it."""
        with self._wake:
            if self.closed:
                return
            self.error = self.error or error
            for ticket in [*self.running, *self._queue]:
                if not ticket.future.done():
                    ticket.future.set_exception(error)
            self._queue.clear()
        self._store.stop()

    def close(self) -> None:
        """Nothing more is taken."""
        with self._wake:
            self.closed = True
            self._queue.clear()
            self._wake.notify_all()
        self._store.stop()

    def idle_s(self) -> float:
        """Seconds that workers have waited without any chunk since the last call, added up."""
        with self._wake:
            idle, self._idle_s = self._idle_s, 0.0
        return idle
