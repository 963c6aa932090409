"""A run in virtual time: the project's own rollout queue and staleness policy, with seconds in place of a model."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from harness.drivers.queue import RolloutQueue, rollout_queue
from harness.lag.policy import StalenessPolicy
from harness.types import Batch, Request, Rollouts

Seconds = Callable[[], float]
"""Draws how long something takes."""


@dataclass(frozen=True)
class Pauses:
    """What the learner does between steps beside learning, all in seconds.

    publish_s: to hand over the weights after every step.
    every: updates between evaluations; 0: none.
    sampling_s: of an evaluation, of all workers together; it goes before what waits.
    grading_s: of an evaluation, in the learner's thread.
    checkpoint_every: updates between checkpoints; 0: none. A checkpoint waits for all that is being generated.
    checkpoint_s: to write one.
    best: every evaluation finds a new best policy, which is saved too.
    """

    publish_s: float = 0.0
    every: int = 0
    sampling_s: float = 0.0
    grading_s: float = 0.0
    checkpoint_every: int = 0
    checkpoint_s: float = 0.0
    best: bool = True


class _Ticket(NamedTuple):
    future: Future[Rollouts]
    version: int | None
    seconds: float | None


class Step(NamedTuple):
    """One rollout batch as it is trained on. waited_s: for it. now: when its training begins."""

    batch: Batch
    version: int
    waited_s: float
    now: float


@dataclass
class Workers:
    """Engines on one clock, each with a chunk at a time: a Generation in virtual time.

    count: of engines.
    chunk_s: draws the seconds of a chunk.
    """

    count: int
    chunk_s: Seconds
    now: float = 0.0
    version: int = 0
    busy_s: float = 0.0
    _waiting: deque[_Ticket] = field(default_factory=deque)
    _running: list[tuple[float, int, _Ticket]] = field(default_factory=list)
    _started: int = 0

    def submit(
        self, request: Request, version: int | None, *, urgent: bool = False, seconds: float | None = None
    ) -> Future[Rollouts]:
        """Queues work as `Generation.submit` does. seconds: that it takes; None: as many as a chunk."""
        ticket = _Ticket(Future(), version, seconds)
        if urgent:
            self._waiting.appendleft(ticket)
        else:
            self._waiting.append(ticket)
        self._start()
        return ticket.future

    def advance(self) -> None:
        """To the next chunk that is done."""
        assert self._running, "deadlock: the learner waits and nobody works"
        self.now, _, ticket = heapq.heappop(self._running)
        assert ticket.version is not None
        ticket.future.set_result(_sampled_by(ticket.version))
        self._start()

    def work(self, seconds: float) -> None:
        """Lets time pass in which the learner is busy."""
        until = self.now + seconds
        while self._running and self._running[0][0] <= until:
            self.advance()
        self.now = until

    def _start(self) -> None:
        while self._waiting and len(self._running) < self.count:
            ticket = self._waiting.popleft()
            seconds = self.chunk_s() if ticket.seconds is None else ticket.seconds
            if ticket.version is None:
                ticket = ticket._replace(version=self.version)
            self._started += 1
            self.busy_s += seconds
            heapq.heappush(self._running, (self.now + seconds, self._started, ticket))


def simulate(
    policy: StalenessPolicy,
    workers: Workers,
    update_s: Seconds,
    *,
    batches: int,
    chunks: int,
    pauses: Pauses = Pauses(),
    watch: Callable[[RolloutQueue], None] = lambda queue: None,
) -> Iterator[Step]:
    """Trains in virtual time, a rollout batch after the other.

    policy: which versions may sample a batch.
    update_s: draws the seconds of an update.
    batches: of the run, each generated in so many `chunks`.
    watch: called at every moment at which something has changed.
    Returns an iterator over the steps, each before its updates.
    """
    request: Any = lambda _: None  # noqa: E731 (opaque here: nobody samples)
    generation: Any = workers
    queue = rollout_queue(generation, policy, request, batches, chunks)

    def wait() -> None:
        watch(queue)
        workers.advance()
        watch(queue)

    for number in range(batches):
        queue.refill(workers.version)
        watch(queue)
        since = workers.now
        batch = queue.pop(number, wait)
        watch(queue)
        yield Step(batch, workers.version, workers.now - since, workers.now)
        for _ in range(policy.updates_per_step):
            workers.work(update_s())
            watch(queue)
        workers.version += policy.updates_per_step
        workers.work(pauses.publish_s)
        _pause(workers, queue, pauses)


def _pause(workers: Workers, queue: RolloutQueue, pauses: Pauses) -> None:
    """What `Training.keep_records` does after a step."""
    evaluates = pauses.every and workers.version % pauses.every == 0
    if evaluates:
        nothing: Any = None
        share = pauses.sampling_s / workers.count
        answers = [workers.submit(nothing, workers.version, urgent=True, seconds=share) for _ in range(workers.count)]
        while not all(answer.done() for answer in answers):
            workers.advance()
        workers.work(pauses.grading_s)
    saves = pauses.checkpoint_every and workers.version % pauses.checkpoint_every == 0
    if saves or (evaluates and pauses.best):
        while queue.running:
            workers.advance()
        workers.work(pauses.checkpoint_s)


def _sampled_by(version: int) -> Rollouts:
    one = torch.ones(1, dtype=torch.int32)
    return Rollouts(one, one, 0 * one, one, one, one.float(), one.float(), version * one, one.bool())
