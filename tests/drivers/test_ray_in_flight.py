"""A bounded lag under driver=ray: an actor takes newer weights in the middle of a chunk, and what it did replays.

It may have several chunks, and is lost with all of them.
"""

import functools
import os
import sys
import time
import weakref
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from juggler import Juggler
from juggler import request as chunk
from short_runs import Run, configured

from harness.drivers.generation import WorkerGeneration
from harness.drivers.ray_actors import RayEngine, RolloutActor, StoredWeights, stored
from harness.drivers.weight_store import SnapshotStore
from harness.groups import RayConfig
from harness.rollout.interface import to_rollouts
from harness.types import Request, Rollouts
from tests.conftest import until

FREE = ("rollout.chunks=4", "updates=24", "eval.every=24")
MODEL = "harness/assets/carry"
WAITING, AT_ONCE = 1.0, 0.0  # temperatures that tell Halfway what to do

pytestmark = pytest.mark.xdist_group("ray")


class Halfway:
    """Samples two tokens, waits for newer weights where it is told to, and samples two more; logp is the weight."""

    def __init__(self) -> None:
        self.version, self.newer, self.weight = -1, lambda: None, 0.0
        self.seconds: dict[str, float] = defaultdict(float)

    def load(self, version: int, weights: Any) -> None:
        self.version, self.weight = version, float(weights["weight"])

    def generate(self, request: Request) -> Rollouts:
        begun, deadline = self.made(), time.monotonic() + 60
        found = self.newer()
        while request.temperature == WAITING and found is None and time.monotonic() < deadline:
            time.sleep(0.01)
            found = self.newer()
        if found is not None:
            self.load(*found)
        logp, versions = torch.cat([begun, self.made()]).T
        ids = torch.zeros(4, dtype=torch.int32)
        return to_rollouts(request, ids, torch.tensor([4]), logp, versions.int(), [0])

    def made(self) -> torch.Tensor:
        return torch.tensor([[self.weight, self.version]] * 2)

    def close(self) -> None:
        pass


def request(temperature: float) -> Request:
    return Request([[1]], np.zeros((1, 1), dtype=np.uint64), temperature, 4)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(value)}


def test_an_actor_takes_newer_weights_in_the_middle_of_a_chunk(by_value: None) -> None:
    engine = RayEngine(Halfway, RayConfig(), 1, MODEL)
    store = SnapshotStore(2, stored)
    generation = WorkerGeneration([engine], store, updating=True)
    try:
        generation.publish(0, weights(0.5))
        running = generation.submit(request(WAITING), None)
        while not generation._tickets.running:
            time.sleep(0.01)
        generation.publish(4, weights(-0.5))
        rollouts = running.result(timeout=120)
        assert rollouts.version.tolist() == [0, 0, 4, 4]
        assert rollouts.logp_engine.tolist() == [0.5, 0.5, -0.5, -0.5]
        after = generation.submit(request(AT_ONCE), None).result(timeout=120)
        assert after.version.tolist() == [4] * 4
        assert store.most_alive <= 2 and set(store._readers) == {4}
    finally:
        generation.close()


def test_an_offer_that_comes_too_late_takes_nothing_back(cluster: Any) -> None:
    actor = RolloutActor(Halfway, torch.get_num_threads(), MODEL)
    actor.offer(4, stored(weights(-0.5)))
    actor.ask(8, 0, request(AT_ONCE))
    assert actor.work(8, stored(weights(1.0)))[0].version.tolist() == [8] * 4
    assert not actor._offered


def test_an_actor_without_chunks_keeps_no_old_snapshot_in_rays_memory(by_value: None) -> None:
    alive: weakref.WeakSet[StoredWeights] = weakref.WeakSet()

    def counted(state: dict[str, torch.Tensor]) -> StoredWeights:
        snapshot = stored(state)
        alive.add(snapshot)
        return snapshot

    generation = WorkerGeneration([RayEngine(Halfway, RayConfig(), 1, MODEL)], SnapshotStore(2, counted))
    try:
        generation.publish(0, weights(0.5))
        generation.submit(request(AT_ONCE), 0).result(timeout=120)
        generation.publish(4, weights(-0.5))
        until(lambda: len(alive) == 1, "the old snapshot is still there")
    finally:
        generation.close()


class UntilNewer(Juggler):
    """Gives every chunk a token, and the others when it has taken over version 4."""

    def poll(self) -> dict[int, Rollouts]:
        begun = all(versions for _, versions in self.running.values())
        (self.going.clear if begun and self.version < 4 else self.going.set)()
        return super().poll()


class Dying(Juggler):
    """Ends its process as soon as it has two chunks, once."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def poll(self) -> dict[int, Rollouts]:
        if len(self.running) == 2 and not self.marker.exists():
            self.marker.touch()
            os._exit(1)
        time.sleep(0.01)
        return super().poll()


@pytest.fixture
def by_value(cluster: Any) -> None:
    """Actors are sent the engines of these tests, which their processes could not import."""
    for module in (__name__, Juggler.__module__):
        cluster.cloudpickle.register_pickle_by_value(sys.modules[module])


def test_an_actors_chunks_all_take_newer_weights_and_one_asked_for_with_them_waits(by_value: None) -> None:
    store = SnapshotStore(2, stored)
    engine = RayEngine(functools.partial(UntilNewer, 3), RayConfig(), 1, MODEL, at_once=3)
    generation = WorkerGeneration([engine], store, updating=True)
    try:
        generation.publish(0, weights(0.0))
        running = [generation.submit(chunk(name, 8), None) for name in range(2)]
        while len(generation._tickets.running) < 2:
            time.sleep(0.01)
        generation.publish(4, weights(4.0))
        evaluation = generation.submit(chunk(9, 8), 4, urgent=True)
        assert set(evaluation.result(timeout=120).version.tolist()) == {4}
        for future in running:
            versions = future.result(timeout=120).version.tolist()
            assert versions == sorted(versions) and versions[0] in (0, 4) and versions[-1] == 4
        assert running[0].result().version[0] == 0
        assert store.most_alive <= 2 and set(store._readers) == {4}
        assert engine.seconds["generation"] > 0
    finally:
        generation.close()


def test_an_actor_is_lost_with_all_its_chunks_and_another_one_has_them(by_value: None, tmp_path: Path) -> None:
    engine = RayEngine(functools.partial(Dying, tmp_path / "died"), RayConfig(), 1, MODEL, at_once=2)
    generation = WorkerGeneration([engine], SnapshotStore(2, stored))
    try:
        generation.publish(0, weights(0.0))
        futures = [generation.submit(chunk(name, 5), None) for name in range(4)]
        assert [future.result(timeout=120).version.tolist() for future in futures] == [[0] * 5] * 4
        assert (tmp_path / "died").exists() and not generation._tickets.running
    finally:
        generation.close()


def test_a_bounded_run_on_ray_replays_to_the_same_weights_in_one_process(cluster: Any, run: Run) -> None:
    free = run(*FREE, "lag=bounded", "staleness=11", "driver=ray", "ray.actors=2", "lag.on_excess=drop")
    replay = ("lag=replay", f"lag.schedule={free.folder / 'schedule.jsonl'}", *FREE)
    assert run(*replay).sha256 == free.sha256


@pytest.mark.parametrize("inflight", ["recompute", "keep_kv"])
def test_an_engine_that_can_may_update_in_flight_on_ray(inflight: str, tmp_path: Path) -> None:
    given = ("lag=bounded", "staleness=11", "driver=ray", "rollout=vllm", "dry_run=true")
    assert configured(tmp_path, *given, f"rollout.inflight={inflight}").rollout.inflight == inflight
