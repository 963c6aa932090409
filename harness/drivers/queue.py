"""The delay line: rollouts that have been asked for and not yet trained on.

Its unit is a chunk, one of the fixed parts that a batch is generated in, numbered in the order of asking.
It asks for a chunk as soon as the staleness policy accepts the newest version for the batch the chunk would
be trained in, and never for one that would not be trained on. At every instant

    asked = trained + dropped + running + queued        (chunks)

What it holds is part of a checkpoint: a run resumed without it is another run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from harness import interrupts
from harness.drivers.generation import Generation
from harness.lag.policy import StalenessPolicy
from harness.lag.schedule import ScheduledChunk
from harness.types import Batch, Chunk, Request, Rollouts


class RolloutQueue:
    """In order: batch i is chunks i·n … i·n + n − 1. Under an exact lag, and a bounded one with on_excess=wait.

    request: the request of a chunk · batches: how many the run trains on · chunks: n, of a batch
    """

    def __init__(
        self,
        generation: Generation,
        policy: StalenessPolicy,
        request: Callable[[int], Request],
        batches: int,
        chunks: int,
    ) -> None:
        self._generation = generation
        self.policy = policy
        self._request = request
        self._batches = batches
        self._chunks = chunks
        self._waiting: dict[int, Future[Rollouts]] = {}
        self._arrivals: dict[int, tuple[float, int]] = {}  # time and newest version when a chunk was done, in order
        self._arrived = threading.Event()
        self._version = 0
        self.asked = 0
        self.trained = 0
        self.dropped = 0

    # Asking ------------------------------------------------------------------------------------------

    def refill(self, version: int) -> None:
        """Asks for every further chunk that `version`, the newest, may sample."""
        self._version = version
        while self._may_ask():
            wanted = self._version_for(self.asked)
            assert wanted is None or wanted == version, f"chunk {self.asked} needs version {wanted}, not {version}"
            self._ask(self.asked, wanted)

    def _may_ask(self) -> bool:
        # A dropped chunk has left its place in a batch to one that is asked for later.
        batch = (self.asked - self.dropped) // self._chunks
        return batch < self._batches and self.policy.accept(batch, self._version)

    def _version_for(self, chunk: int) -> int | None:
        return self.policy.version_for(chunk // self._chunks)

    def _ask(self, chunk: int, version: int | None) -> None:
        self.asked = chunk + 1
        future = self._generation.submit(self._request(chunk), version)
        self._waiting[chunk] = future
        future.add_done_callback(lambda _: self._note_arrival(chunk))

    def _note_arrival(self, chunk: int) -> None:
        self._arrivals[chunk] = (time.perf_counter(), self._version)
        self._arrived.set()

    # Taking ------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Until another chunk arrives, at most so long. Raises what stopped a worker."""
        self._arrived.wait(seconds)
        self._arrived.clear()
        self._generation.check()

    def pop(self, batch: int, wait: Callable[[], None]) -> Batch:
        """Batch `batch`; `wait` is called until its chunks are there. Raises whatever stopped their generation.

        Until it returns nothing has left the line: `wait` may save a checkpoint and raise.
        """
        while (chosen := self._choose(batch)) is None:
            wait()
        made = Batch([self._take(*one) for one in chosen], [self._take(index, False) for index in self._excess()])
        self.trained += len(made.chunks)
        for chunk in made.chunks:
            assert not chunk.trained or self._accepts(batch, chunk), (
                f"batch {batch} was sampled by version {chunk.version}"
            )
        return made

    def _choose(self, batch: int) -> list[tuple[int, bool]] | None:
        """The chunks of a batch, and whether they are trained on; None as long as one is missing."""
        wanted = range(batch * self._chunks, (batch + 1) * self._chunks)
        return [(index, True) for index in wanted] if all(i in self._arrivals for i in wanted) else None

    def _excess(self) -> Sequence[int]:
        """Chunks that have been dropped for the batch just chosen."""
        return ()

    def _accepts(self, batch: int, chunk: Chunk) -> bool:
        return self.policy.accept(batch, chunk.version)

    def _take(self, index: int, trained: bool) -> Chunk:
        chunk = self._look(index, trained)
        del self._waiting[index]
        del self._arrivals[index]
        return chunk

    def _look(self, index: int, trained: bool = True) -> Chunk:
        rollouts = self._waiting[index].result()
        done, newest = self._arrivals[index]
        lag = newest - int(rollouts.version.max()) if len(rollouts.version) else 0
        return Chunk(index, rollouts, trained, time.perf_counter() - done, max(lag, 0))

    # Counting and checkpoints ------------------------------------------------------------------------

    @property
    def running(self) -> int:
        return sum(not future.done() for future in self._waiting.values())

    @property
    def queued(self) -> int:
        return sum(future.done() for future in self._waiting.values()) - len(self._excess())

    def contents(self) -> dict[int, Rollouts]:
        """Everything in the line by chunk, waiting for what is being generated. Raises Interrupted when a stop
        was asked for and that takes too long."""
        return {index: interrupts.result_of(future) for index, future in self._waiting.items()}

    def counters(self) -> dict[str, Any]:
        """What `restore` needs beside the contents."""
        return {
            "asked": self.asked,
            "trained": self.trained,
            "dropped": self.dropped - len(self._excess()),
            "order": list(self._arrivals),
        }

    def restore(self, contents: Mapping[int, Rollouts], counters: Mapping[str, Any]) -> None:
        """The line of a checkpoint."""
        self.asked, self.trained, self.dropped = (counters[name] for name in ("asked", "trained", "dropped"))
        order = [index for index in counters["order"] if index in contents]
        for index in [*order, *sorted(contents.keys() - set(order))]:
            future: Future[Rollouts] = Future()
            future.set_result(contents[index])
            self._waiting[index] = future
            self._arrivals[index] = (time.perf_counter(), 0)


class FirstComeQueue(RolloutQueue):
    """A batch is the n chunks that were done first: nobody waits for a straggler.

    Admission promised it a place in an earlier batch, so it may be too stale when its turn comes. mask=False:
    it is dropped and another chunk asked for in its place. mask=True: it takes its place, and no token of it
    is trained on.
    """

    def __init__(self, *args: Any, mask: bool, **more: Any) -> None:
        super().__init__(*args, **more)
        self._mask = mask
        self._too_stale: list[int] = []

    def _choose(self, batch: int) -> list[tuple[int, bool]] | None:
        chosen: list[tuple[int, bool]] = []
        for index in [index for index in list(self._arrivals) if index not in self._too_stale]:
            fresh = self._accepts(batch, self._look(index))
            if fresh or self._mask:
                chosen.append((index, fresh))
            else:
                self._too_stale.append(index)
                self.dropped += 1
            if len(chosen) == self._chunks:
                return chosen
        self.refill(self._version)
        return None

    def _excess(self) -> Sequence[int]:
        return list(self._too_stale)

    def _take(self, index: int, trained: bool) -> Chunk:
        if index in self._too_stale:
            self._too_stale.remove(index)
        return super()._take(index, trained)


class ReplayQueue(RolloutQueue):
    """The batches of a schedule: which chunks, by which version each, whatever happens when."""

    def __init__(self, *args: Any, schedule: Sequence[Sequence[ScheduledChunk]], **more: Any) -> None:
        super().__init__(*args, **more)
        self._schedule = schedule[: self._batches]
        self._to_ask = sorted((one for batch in self._schedule for one in batch), key=lambda one: one.version)
        self._asked_for = 0

    def refill(self, version: int) -> None:
        self._version = version
        while self._asked_for < len(self._to_ask) and self._to_ask[self._asked_for].version == version:
            chunk = self._to_ask[self._asked_for]
            self._asked_for += 1
            self._ask(chunk.index, chunk.version)
            self.asked = self._asked_for

    def _choose(self, batch: int) -> list[tuple[int, bool]] | None:
        wanted = self._schedule[batch]
        done = all(one.index in self._arrivals for one in wanted)
        return [(one.index, one.trained) for one in wanted] if done else None

    def _accepts(self, batch: int, chunk: Chunk) -> bool:
        return any(one.index == chunk.index and one.version == chunk.version for one in self._schedule[batch])

    def restore(self, contents: Mapping[int, Rollouts], counters: Mapping[str, Any]) -> None:
        super().restore(contents, counters)
        self._asked_for = self.asked
