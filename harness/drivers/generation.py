"""Where generation happens: inline in the learner's thread, or in workers beside it.

The unit of work is a chunk, a request cut from a rollout batch. Its tokens depend on the request and the
version alone, so who serves it, when, and beside what cannot matter.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from harness.drivers.tickets import Tickets
from harness.drivers.weight_store import SnapshotStore
from harness.drivers.worker import Absences, Worker
from harness.rollout.interface import Engine, RolloutEngine, StateDict
from harness.types import Request, Rollouts

JOIN_S = 1.0  # for all workers to end what they are at


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


class WorkerGeneration:
    """driver=overlapped and driver=ray: a thread for each engine takes tickets from one queue, in order.

    An error in a worker ends up in every future that waits and in every later call, with its traceback.

    engines: one for each worker.
    store: the versions they load.
    threads: of torch, for each worker.
    finally_: called once, after the engines are closed.
    updating: engines may take over a newer version in the middle of a chunk (`engine.newer`).
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        store: SnapshotStore,
        threads: int = 1,
        finally_: Callable[[], None] = lambda: None,
        *,
        updating: bool = False,
    ) -> None:
        self._store, self._tickets = store, Tickets(store)
        self._engines = list(engines)
        self._finally = finally_
        absences = Absences(len(self._engines))
        workers = [
            Worker(engine, self._tickets, store, absences, threads, updating=updating) for engine in self._engines
        ]
        self._threads = [
            threading.Thread(target=worker.run, name=f"rollout-{i}", daemon=True) for i, worker in enumerate(workers)
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
        return self._tickets.put(request, version, urgent=urgent)

    def check(self) -> None:
        if self._tickets.error is not None:
            raise self._tickets.error

    def idle_s(self) -> float:
        return self._tickets.idle_s() / len(self._engines)

    def seconds(self) -> dict[str, float]:
        return _emptied(self._engines)

    def close(self) -> None:
        self._tickets.close()
        self._join()  # so that an engine is closed between two steps, if they are short
        for engine in self._engines:
            engine.close()
        self._join()
        self._finally()

    def _join(self) -> None:
        deadline = time.monotonic() + JOIN_S
        for thread in self._threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))


def _emptied(engines: Sequence[Engine]) -> dict[str, float]:
    """What the engines' clocks have counted, each kind of work named; they begin anew."""
    total = dict.fromkeys(("generation", "scoring", "publication"), 0.0)
    for engine in engines:
        counted, engine.seconds = engine.seconds, defaultdict(float)
        for what, seconds in counted.items():
            total[what] += seconds
    return total
