"""One config on three drivers: under an exact lag the very same weights."""

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.drivers.generation import WorkerGeneration
from harness.types import Request, Rollouts

LAGS = {0: ("updates=16", "eval.every=16"), 4: ("updates=16", "eval.every=8"), 64: ("updates=80", "eval.every=80")}


class Delayed:
    """An engine that takes a random time; delays come from the request's own seeds, so they differ by chunk."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.seconds = engine, engine.seconds

    @property
    def version(self) -> int:
        return self._engine.version

    def load(self, version: int, weights: Any) -> None:
        self._engine.load(version, weights)

    def generate(self, request: Request) -> Rollouts:
        time.sleep(random.Random(int(request.keys[0, 0])).choice((0.0, 0.0, 0.01, 0.1)))
        return self._engine.generate(request)

    def close(self) -> None:
        self._engine.close()


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The weight stores of the runs of a test."""
    seen: list[Any] = []
    made = WorkerGeneration.__init__

    def spied(self: WorkerGeneration, engines: Any, store: Any, *more: Any, **named: Any) -> None:
        seen.append(store)
        made(self, engines, store, *more, **named)

    monkeypatch.setattr(WorkerGeneration, "__init__", spied)
    return seen


@pytest.mark.parametrize("staleness", LAGS)
def test_overlapped_gives_the_weights_of_serial(run: Any, engines: Any, stores: list[Any], staleness: int) -> None:
    lag = (*LAGS[staleness], f"staleness={staleness}", "rollout.chunks=3")
    serial = run(*lag)
    engines(Delayed)
    for versions in (1, 2):
        overlapped = run(*lag, "driver=overlapped", f"lag.max_versions={versions}")
        assert overlapped.sha256 == serial.sha256
        assert stores[-1].most_alive <= versions


@pytest.mark.parametrize(("staleness", "actors"), [(0, 1), (4, 3), (64, 1)])
def test_ray_gives_the_weights_of_serial(
    run: Any, cluster: Any, engines: Any, stores: list[Any], staleness: int, actors: int
) -> None:
    lag = (*LAGS[staleness], f"staleness={staleness}", "rollout.chunks=3")
    cluster.cloudpickle.register_pickle_by_value(sys.modules[Delayed.__module__])
    serial = run(*lag)
    engines(Delayed)
    assert run(*lag, "driver=ray", f"ray.actors={actors}").sha256 == serial.sha256
    assert stores[-1].most_alive <= 2


def test_chunks_change_nothing(run: Any) -> None:
    assert run("rollout.chunks=1").sha256 == run("rollout.chunks=8").sha256


def test_two_engines_in_threads_give_the_weights_of_one(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from harness import build
    from harness.drivers.weight_store import SnapshotStore

    serial = run("staleness=4", "rollout.chunks=4")

    def two(config: Any, loaded: Any) -> WorkerGeneration:
        return WorkerGeneration([Delayed(build.replica(config)), build.replica(config)], SnapshotStore(2))

    monkeypatch.setattr(build, "generation", two)
    assert run("staleness=4", "rollout.chunks=4", "driver=overlapped").sha256 == serial.sha256
