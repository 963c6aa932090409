"""The rollout queue: rollouts that have been submitted for generation and not yet trained on.

Its unit is a chunk, one of the fixed parts that a batch is generated in, numbered in the order of submission.
A chunk is submitted as soon as the staleness policy accepts the newest version for the batch the chunk would
be trained in, and never one that would not be trained on. At every instant

    submitted = trained + dropped + running + ready        (chunks)

What the queue holds is part of a checkpoint: a run resumed without it is another run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from harness import interrupts
from harness.drivers.generation import Generation
from harness.lag.policy import Order, Replay, StalenessPolicy
from harness.types import Batch, Chunk, Request, Rollouts


class RolloutQueue:
    """In the order of submission: batch i is chunks i·n … i·n + n − 1.

    generation: generates the chunks.
    policy: which versions may sample them.
    request: index of a chunk → its request.
    batches: how many the run trains on.
    chunks: n, chunks of a batch.
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
        self._futures: dict[int, Future[Rollouts]] = {}
        self._arrivals: dict[int, tuple[float, int]] = {}  # time and newest version when a chunk was done, in order
        self._arrived = threading.Event()
        self._version = 0
        self._start = 0  # batches made before this queue's first
        self.submitted = 0
        self.trained = 0
        self.dropped = 0

    # Submitting --------------------------------------------------------------------------------------

    def refill(self, version: int) -> None:
        """Submits every further chunk that `version`, the newest, may sample."""
        self._version = version
        while (item := self._next()) is not None:
            index, expected = item
            assert expected in (None, version), f"chunk {index} needs version {expected}, not {version}"
            self._submit(index, expected)

    def _next(self) -> tuple[int, int | None] | None:
        """The next chunk that the newest version may sample, and the version that must sample it."""
        # A dropped chunk has left its place in a batch to one that is submitted later.
        batch = (self.submitted - self.dropped) // self._chunks
        if batch >= self._batches or not self._may_sample(batch, self._version):
            return None
        expected = self.policy.version_for(self.submitted // self._chunks - self._start)
        return self.submitted, None if expected is None else expected + self._start_version

    def start(self, batch: int) -> None:
        """Begins at a batch as a run begins at batch 0: what would be older comes from the version of now."""
        self._start = batch
        self.submitted = self.trained = batch * self._chunks

    @property
    def _start_version(self) -> int:
        return self._start * self.policy.updates_per_step

    def _may_sample(self, batch: int, version: int) -> bool:
        return self.policy.accept(batch - self._start, version - self._start_version)

    def _submit(self, index: int, version: int | None) -> None:
        self.submitted += 1
        future = self._generation.submit(self._request(index), version)
        self._futures[index] = future
        future.add_done_callback(lambda _: self._note_arrival(index))

    def _note_arrival(self, index: int) -> None:
        self._arrivals[index] = (time.perf_counter(), self._version)
        self._arrived.set()

    # Popping -----------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Until another chunk arrives, at most so long. Raises what stopped a worker."""
        self._arrived.wait(seconds)
        self._arrived.clear()
        self._generation.check()

    def pop(self, batch: int, wait: Callable[[], None]) -> Batch:
        """The chunks to train on next, once they are there.

        batch: its number, from 0.
        wait: called again and again until then; it may save a checkpoint and raise, for nothing has left the queue.
        Raises whatever stopped their generation.
        """
        while (chosen := self._choose(batch)) is None:
            wait()
        popped = Batch([self._take(*item) for item in chosen], [self._take(index, False) for index in self._excess()])
        self.trained += len(popped.chunks)
        for chunk in popped.chunks:
            assert not chunk.trained or self._accepts(batch, chunk), (
                f"batch {batch} was sampled by version {chunk.version}"
            )
        return popped

    def _choose(self, batch: int) -> list[tuple[int, bool]] | None:
        """The chunks of a batch, and whether they are trained on; None as long as one is missing."""
        expected = range(batch * self._chunks, (batch + 1) * self._chunks)
        return [(index, True) for index in expected] if all(i in self._arrivals for i in expected) else None

    def _excess(self) -> Sequence[int]:
        """Chunks that have been dropped for the batch just chosen."""
        return ()

    def _accepts(self, batch: int, chunk: Chunk) -> bool:
        return self._may_sample(batch, chunk.version)

    def _take(self, index: int, trained: bool) -> Chunk:
        chunk = self._look(index, trained)
        del self._futures[index]
        del self._arrivals[index]
        return chunk

    def _look(self, index: int, trained: bool = True) -> Chunk:
        rollouts = self._futures[index].result()
        done, newest = self._arrivals[index]
        lag = newest - int(rollouts.version.max()) if len(rollouts.version) else 0
        return Chunk(index, rollouts, trained, time.perf_counter() - done, max(lag, 0))

    # Counting and checkpoints ------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """Chunks being generated, or waiting for a worker."""
        return sum(not future.done() for future in self._futures.values())

    @property
    def ready(self) -> int:
        """Chunks generated and not yet popped."""
        return sum(future.done() for future in self._futures.values()) - len(self._excess())

    def rollouts(self) -> dict[int, Rollouts]:
        """Everything in the queue by chunk, waiting for what is being generated.

        Raises Interrupted when a stop was asked for and that takes too long.
        """
        return {index: interrupts.result_of(future) for index, future in self._futures.items()}

    def counters(self) -> dict[str, Any]:
        """What `restore` needs beside the rollouts."""
        return {
            "submitted": self.submitted,
            "trained": self.trained,
            "dropped": self.dropped - len(self._excess()),
            "start": self._start,
            "order": list(self._arrivals),
        }

    def restore(self, rollouts: Mapping[int, Rollouts], counters: Mapping[str, Any]) -> None:
        """The queue of a checkpoint: what `rollouts` and `counters` gave when it was saved."""
        self._start = counters.get("start", self._start)
        self.submitted, self.trained, self.dropped = (counters[name] for name in ("submitted", "trained", "dropped"))
        order = [index for index in counters["order"] if index in rollouts]
        for index in [*order, *sorted(rollouts.keys() - set(order))]:
            future: Future[Rollouts] = Future()
            future.set_result(rollouts[index])
            self._futures[index] = future
            self._arrivals[index] = (time.perf_counter(), 0)


class FirstComeQueue(RolloutQueue):
    """A batch is the n chunks that were done first, or (policy.turn) the freshest or oldest n of those done.

    Nobody waits for a straggler.

    Admission promised it a place in an earlier batch, so it may be too stale when its turn comes. Then it is
    dropped and another chunk submitted in its place, or (policy.masks_excess) it takes its place and no token of
    it is trained on.
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._too_stale: list[int] = []

    def _choose(self, batch: int) -> list[tuple[int, bool]] | None:
        ready = [self._look(index) for index in list(self._arrivals) if index not in self._too_stale]
        found = [(chunk.index, self._accepts(batch, chunk)) for chunk in sorted(ready, key=self._turn)]
        if not self.policy.masks_excess:
            late = [index for index, fresh in found if not fresh]
            self._too_stale += late
            self.dropped += len(late)
            found = [(index, fresh) for index, fresh in found if fresh]
        if len(found) >= self._chunks:
            return found[: self._chunks]
        self.refill(self._version)
        return None

    def _turn(self, chunk: Chunk) -> int:
        return self.policy.turn(chunk.version)

    def _excess(self) -> Sequence[int]:
        return list(self._too_stale)

    def _take(self, index: int, trained: bool) -> Chunk:
        if index in self._too_stale:
            self._too_stale.remove(index)
        return super()._take(index, trained)


class ReplayQueue(RolloutQueue):
    """The batches of a schedule: which chunks, by which version each, whatever happens when."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        assert isinstance(self.policy, Replay), "Order.SCHEDULED is Replay's, or a class's that derives from it"
        self._schedule = self.policy.batches[: self._batches]
        self._by_version = sorted((chunk for batch in self._schedule for chunk in batch), key=lambda c: c.version)

    def _next(self) -> tuple[int, int | None] | None:
        due = self._by_version[self.submitted : self.submitted + 1]
        return (due[0].index, due[0].version) if due and due[0].version == self._version else None

    def _choose(self, batch: int) -> list[tuple[int, bool]] | None:
        expected = self._schedule[batch]
        done = all(chunk.index in self._arrivals for chunk in expected)
        return [(chunk.index, chunk.trained) for chunk in expected] if done else None

    def _accepts(self, batch: int, chunk: Chunk) -> bool:
        return any(one.index == chunk.index and one.version == chunk.version for one in self._schedule[batch])


QUEUES = {Order.SUBMITTED: RolloutQueue, Order.FINISHED: FirstComeQueue, Order.SCHEDULED: ReplayQueue}


def rollout_queue(
    generation: Generation, policy: StalenessPolicy, request: Callable[[int], Request], batches: int, chunks: int
) -> RolloutQueue:
    """The queue whose batches are made up as the policy orders; parameters as RolloutQueue's."""
    return QUEUES[policy.order](generation, policy, request, batches, chunks)
