"""The rollout queue of partial rollouts: what one version began waits, and the newest version carries it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness import interrupts
from harness.drivers.generation import Generation
from harness.drivers.queue import RolloutQueue
from harness.lag.partial import PartialLag
from harness.types import Chunk, Request


class PartialQueue(RolloutQueue):
    """A chunk is submitted twice: when the version is there that begins it, and when its batch is due.

    What comes of the second time goes under the chunk's number as −1 − index. The first time whole responses are
    sampled and then cut, which costs up to as much again and needs nothing of the engine.

    Parameters as RolloutQueue's.
    """

    def __init__(
        self,
        generation: Generation,
        policy: PartialLag,
        request: Callable[[int], Request],
        batches: int,
        chunks: int,
    ) -> None:
        super().__init__(generation, policy, request, batches, chunks)
        self._cuts = policy.cuts

    def refill(self, version: int) -> None:
        """Submits every further chunk that `version`, the newest, begins, and what it carries on."""
        super().refill(version)
        due = version // self.policy.updates_per_step
        for index in range(due * self._chunks, (due + 1) * self._chunks):
            if index in self._futures:
                self._carry_on(index, version)

    def _carry_on(self, index: int, version: int) -> None:
        begun = interrupts.result_of(self._futures[index])
        request = self._request(index)
        later = replace(request, begun=begun, cuts=self._cuts(request))
        future = self._generation.submit(later, version)
        del self._futures[index]
        self._futures[-1 - index] = future
        future.add_done_callback(lambda _: self._note_arrival(-1 - index))

    def _choose(self, batch: int) -> list[tuple[int, bool]] | None:
        expected = [-1 - index for index in range(batch * self._chunks, (batch + 1) * self._chunks)]
        return [(number, True) for number in expected] if all(n in self._arrivals for n in expected) else None

    def _take(self, index: int, trained: bool) -> Chunk:
        self._arrivals.pop(-1 - index, None)  # of the first time
        return replace(super()._take(index, trained), index=-1 - index)
