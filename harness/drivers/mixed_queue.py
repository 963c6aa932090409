"""The rollout queue of a mixture of ages: the prompts of one batch are sampled by several versions."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from harness import interrupts
from harness.drivers.generation import Generation
from harness.drivers.queue import RolloutQueue
from harness.lag.mixture import MixedLag
from harness.types import Batch, Chunk, Request, Rollouts, concatenate, part

Place = tuple[int, int]
"""A prompt: its batch, and its number in the batch."""


class MixedQueue(RolloutQueue):
    """A version is asked for all prompts that it is to sample, of whichever batches, the earliest batch first.

    They are asked in requests of as many prompts as a chunk has, and a prompt leaves with its own batch. Counts are of
    prompts.

    generation: generates.
    policy: which ages there are.
    request: prompts → what is asked.
    versions: number of a batch → the version that samples each of its prompts, int [P].
    batches: how many the run trains on.
    chunks: that a batch is cut into when it leaves.
    """

    def __init__(
        self,
        generation: Generation,
        policy: MixedLag,
        request: Callable[[Sequence[Place]], Request],
        versions: Callable[[int], np.ndarray],
        batches: int,
        chunks: int,
    ) -> None:
        super().__init__(generation, policy, lambda _: request([]), batches, chunks)  # it never asks for a chunk
        self._request_of = request
        self._versions_of = versions
        self._prompts = policy.prompts
        self._versions: dict[int, np.ndarray] = {}  # by batch
        self._places: dict[Place, tuple[int, int]] = {}  # number of the request, and of the prompt in it
        self._left: Counter[int] = Counter()  # prompts of a request that are still in the queue
        self._asked = -1  # the newest version that has been asked
        self._requests = 0

    def refill(self, version: int) -> None:
        """Asks `version`, the newest, for every prompt that it is to sample."""
        self._version = version
        if version <= self._asked:
            return
        self._asked = version
        due, size = self._due(version), math.ceil(self._prompts / self._chunks)
        for places in (due[start : start + size] for start in range(0, len(due), size)):
            self.submitted += len(places)
            self._hold(places, self._generation.submit(self._request_of(places), version))

    def _due(self, version: int) -> list[Place]:
        first = version // self.policy.updates_per_step
        last = min(first + self.policy.lag_steps, self._batches - 1)
        return [
            (batch, prompt)
            for batch in range(first, last + 1)
            for prompt in np.flatnonzero(self._expected(batch) == version).tolist()
        ]

    def _expected(self, batch: int) -> np.ndarray:
        if batch not in self._versions:
            self._versions[batch] = np.maximum(self._versions_of(batch), self._start_version)
        return self._versions[batch]

    def _hold(self, places: Sequence[Place], future: Future[Rollouts]) -> None:
        number = self._requests
        self._requests += 1
        self._futures[number] = future
        self._left[number] = len(places)
        self._places |= {place: (number, i) for i, place in enumerate(places)}
        future.add_done_callback(lambda _: self._note_arrival(number))

    def start(self, batch: int) -> None:
        self._start = batch
        self.submitted = self.trained = batch * self._prompts

    def pop(self, batch: int, wait: Callable[[], None]) -> Batch:
        places = [(batch, prompt) for prompt in range(self._prompts)]
        while not all(self._places[place][0] in self._arrivals for place in places):
            wait()
        expected = self._expected(batch).tolist()
        chunks = [self._chunk(batch, index, expected) for index in range(self._chunks)]
        for place in places:
            self._forget(place)
        del self._versions[batch]
        self.trained += len(places)
        return Batch(chunks, [])

    def _chunk(self, batch: int, index: int, expected: Sequence[int]) -> Chunk:
        """A part of a batch as if it had been generated at once, for its prompts are numbered like any batch's."""
        prompts = part(self._prompts, self._chunks, index)
        rollouts = [self._look_up((batch, prompt)) for prompt in prompts]
        for prompt, own in zip(prompts, rollouts, strict=True):
            assert bool((own.version == expected[prompt]).all()), f"prompt {prompt} of batch {batch}: another version"
        arrivals = [self._arrivals[self._places[batch, prompt][0]] for prompt in prompts]
        lags = [newest - expected[prompt] for prompt, (_, newest) in zip(prompts, arrivals, strict=True)]
        waited = time.perf_counter() - sum(done for done, _ in arrivals) / len(arrivals)
        return Chunk(batch * self._chunks + index, concatenate(rollouts), True, waited, max(*lags, 0))

    def _look_up(self, place: Place) -> Rollouts:
        number, i = self._places[place]
        return interrupts.result_of(self._futures[number]).prompts(i, i + 1)

    def _forget(self, place: Place) -> None:
        number, _ = self._places.pop(place)
        self._left[number] -= 1
        if not self._left[number]:
            del self._futures[number], self._arrivals[number], self._left[number]

    @property
    def running(self) -> int:
        return sum(not self._futures[number].done() for number, _ in self._places.values())

    @property
    def ready(self) -> int:
        return len(self._places) - self.running

    def rollouts(self) -> dict[int, Rollouts]:
        """Everything in the queue by batch, its prompts in order, waiting for what is being generated."""
        batches: dict[int, list[Rollouts]] = {}
        for place in sorted(self._places):
            batches.setdefault(place[0], []).append(self._look_up(place))
        return {batch: concatenate(parts) for batch, parts in batches.items()}

    def counters(self) -> dict[str, Any]:
        return {
            "submitted": self.submitted,
            "trained": self.trained,
            "dropped": 0,
            "start": self._start,
            "asked": self._asked,
        }

    def restore(self, rollouts: Mapping[int, Rollouts], counters: Mapping[str, Any]) -> None:
        self._start = counters.get("start", self._start)
        self.submitted, self.trained, self._asked = (counters[name] for name in ("submitted", "trained", "asked"))
        for batch, held in rollouts.items():
            prompts = np.flatnonzero(self._expected(batch) <= self._asked).tolist()
            future: Future[Rollouts] = Future()
            future.set_result(held)
            self._hold([(batch, prompt) for prompt in prompts], future)
