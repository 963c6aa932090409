"""Bounded lag in virtual time, with no model: the bound, the bookkeeping and the absence of deadlock."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.command.capacity.virtual_time import Workers, simulate
from harness.drivers.queue import RolloutQueue
from harness.lag.policy import BoundedLag, ExactLag
from harness.types import part


def simulated(
    bound: int,
    per_step: int,
    chunks: int,
    workers: int,
    on_excess: str,
    seed: int,
    batches: int = 40,
    first: str = "finished",
) -> tuple[list[RolloutQueue], list[int], Workers]:
    """The queue (alone in a list), the staleness of every chunk's last update, and the workers.

    The learner and a few workers on one clock; a chunk's duration is heavy-tailed (Pareto, mean about 2).
    """
    rng = random.Random(seed)
    world = Workers(workers, lambda: 0.5 * rng.paretovariate(1.3))
    policy = BoundedLag(bound, per_step, on_excess=on_excess, first=first)
    queues: list[RolloutQueue] = []

    def conserved(queue: RolloutQueue) -> None:
        assert queue.submitted == queue.trained + queue.dropped + queue.running + queue.ready
        queues[:] = [queue]

    worst: list[int] = []
    trained: set[int] = set()
    for step in simulate(policy, world, lambda: rng.expovariate(1.0), batches=batches, chunks=chunks, watch=conserved):
        assert len(step.batch.chunks) == chunks
        for chunk in step.batch.chunks:
            assert chunk.index not in trained
            trained.add(chunk.index)
            if chunk.trained:
                worst.append(step.version + per_step - 1 - chunk.version)
        assert on_excess == "drop" or not step.batch.dropped
    assert max(worst, default=0) <= bound
    return queues, worst, world


@settings(max_examples=150, deadline=None)
@given(
    per_step=st.integers(1, 5),
    slack=st.integers(0, 40),
    chunks=st.integers(1, 8),
    workers=st.integers(1, 12),
    on_excess=st.sampled_from(["wait", "drop", "mask"]),
    first=st.sampled_from(["finished", "freshest", "oldest"]),
    seed=st.integers(0, 2**32),
)
def test_the_bound_holds_nothing_is_lost_nothing_hangs(
    per_step: int, slack: int, chunks: int, workers: int, on_excess: str, first: str, seed: int
) -> None:
    first = first if on_excess == "drop" else "finished"
    (queue,), _, _ = simulated(per_step - 1 + slack, per_step, chunks, workers, on_excess, seed, first=first)
    assert queue.trained == 40 * chunks


def test_stragglers_are_really_dropped_and_masked() -> None:
    """The cases above would pass with a simulation in which no chunk is ever late."""
    dropped = sum(simulated(7, 4, 4, 8, "drop", seed)[0][0].dropped for seed in range(20))
    masked = sum(40 * 4 - len(simulated(7, 4, 4, 8, "mask", seed)[1]) for seed in range(20))
    assert dropped > 10 and masked > 10


def test_not_waiting_for_stragglers_saves_time() -> None:
    waited, dropped = (
        sum(simulated(15, 4, 4, 8, on_excess, seed)[2].now for seed in range(10)) for on_excess in ("wait", "drop")
    )
    assert dropped < waited


def test_the_freshest_first_is_fresher_and_drops_more() -> None:
    ran = {first: simulated(31, 4, 4, 16, "drop", 1, 200, first) for first in ("freshest", "finished", "oldest")}
    means = [np.mean(worst) for _, worst, _ in ran.values()]
    assert means[0] < means[1] - 1 and means[1] <= means[2] + 1
    assert ran["freshest"][0][0].dropped > ran["oldest"][0][0].dropped


def test_the_same_bound_is_not_the_same_staleness() -> None:
    """What the label leaves open: with fast workers the mean is near the bound, with slow ones far below."""
    means = {workers: np.mean(simulated(31, 4, 4, workers, "wait", 1, batches=200)[1]) for workers in (1, 16)}
    assert means[16] > means[1] + 4


@pytest.mark.parametrize("staleness", [0, 4, 12])
def test_admission_of_an_exact_lag_is_its_delay(staleness: int) -> None:
    policy = ExactLag(staleness, 4)
    for batch in range(10):
        version = 4 * max(0, batch - staleness // 4)
        assert policy.version_for(batch) == version
        assert policy.accept(batch, version)
        assert not policy.accept(batch, version + 4)


def test_the_last_update_decides_the_bound() -> None:
    """Batch 3 with 4 updates a step: its last update is number 15, so K = 8 needs version 7 or newer."""
    policy = BoundedLag(8, 4)
    assert policy.accept(3, 7)
    assert not policy.accept(3, 6)


def test_chunks_cover_a_batch_once() -> None:
    for prompts, chunks in ((8, 3), (64, 1), (7, 7), (10, 4)):
        assert [i for k in range(chunks) for i in part(prompts, chunks, k)] == list(range(prompts))
