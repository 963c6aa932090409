"""The delay line: rollout batches that have been asked for and not yet trained on, in order of consumption.

It asks for a batch as soon as the staleness policy accepts the newest version for it, and never for one
that would not be trained on. What it holds is part of a checkpoint: a run resumed without it is another run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from harness.drivers.generation import Generation
from harness.lag.policy import StalenessPolicy
from harness.models.sequences import Rollouts
from harness.rollout.interface import Request


class DelayLine:
    """shards(i): the requests of batch i. batches: how many the run trains on."""

    def __init__(
        self,
        generation: Generation,
        policy: StalenessPolicy,
        shards: Callable[[int], Sequence[Request]],
        batches: int,
    ) -> None:
        self._generation = generation
        self._policy = policy
        self._shards = shards
        self._batches = batches
        self._waiting: dict[int, Future[Rollouts]] = {}
        self._next = 0  # first batch not asked for

    def refill(self, version: int) -> None:
        """Asks for every further batch that `version`, the newest, may sample."""
        while self._next < self._batches and self._policy.accept(self._next, version):
            self.ask(version)

    def ask(self, version: int) -> None:
        wanted = self._policy.version_for(self._next)
        assert wanted is None or wanted == version, f"batch {self._next} needs version {wanted}, not {version}"
        self._waiting[self._next] = self._generation.submit(self._shards(self._next), wanted)
        self._next += 1

    def pop(self, batch: int) -> Rollouts:
        """Batch `batch`, waiting for it; raises whatever stopped its generation."""
        rollouts = self._waiting.pop(batch).result()
        oldest = int(rollouts.version.min()) if len(rollouts.version) else 0
        assert self._policy.accept(batch, oldest), f"batch {batch} was sampled by version {oldest}"
        return rollouts

    def contents(self) -> dict[int, Rollouts]:
        """Everything in the line, waiting for what is still being generated."""
        return {batch: future.result() for batch, future in self._waiting.items()}

    def restore(self, contents: dict[int, Rollouts], consumed: int) -> None:
        """The line of a checkpoint taken after `consumed` batches."""
        for batch, rollouts in contents.items():
            future: Future[Rollouts] = Future()
            future.set_result(rollouts)
            self._waiting[batch] = future
        self._next = max(contents, default=consumed - 1) + 1
