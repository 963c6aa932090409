"""Several chunks under way in one engine: one version at a time, in order, and nothing is lost with an engine."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from juggler import Juggler, request, until, weights

from harness.drivers import worker
from harness.drivers.generation import WorkerGeneration
from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.rollout.torch_engine import TorchEngine
from harness.types import Request, Rollouts

Made = Callable[..., WorkerGeneration]


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes a generation with engines and version 0, and closes it."""
    every = []

    def make(*engines: Any, versions: int = 8, **named: Any) -> WorkerGeneration:
        generation = WorkerGeneration(engines, SnapshotStore(versions), **named)
        every.append(generation)
        generation.publish(0, weights(0))
        return generation

    yield make
    for generation in every:
        generation.close()


def versions(future: Any) -> list[int]:
    return future.result(timeout=60).version.tolist()


@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_every_chunk_is_sampled_by_its_version_alone(made: Made, engines: int, seed: int) -> None:
    """Juggler.load refuses while anything runs, so no two versions are ever under way in an engine."""
    rng = random.Random(seed)
    jugglers = [Juggler(3) for _ in range(engines)]
    generation = made(*jugglers, versions=3)
    expected, futures = [], []
    for name in range(120):
        version = name // 10  # published when its first chunk is asked for: waits for room among those alive
        if name % 10 == 0 and version:
            generation.publish(version, weights(version))
        expected.append(version)
        futures.append(generation.submit(request(name, rng.choice((1, 1, 2, 9))), version))
    assert [set(versions(future)) for future in futures] == [{version} for version in expected]
    began = [[name for name, _ in juggler.log if name != "load"] for juggler in jugglers]
    assert sorted(name for names in began for name in names) == list(range(120))
    assert all(names == sorted(names) for names in began)  # in the order of the tickets
    assert max(juggler.most for juggler in jugglers) > 1
    assert set(generation._store._readers) == {11} and not generation._tickets.running


def test_a_short_chunk_is_done_before_a_long_one_that_began_earlier(made: Made) -> None:
    engine = Juggler()
    engine.going.clear()
    generation = made(engine)
    done: list[int] = []
    for name, tokens in enumerate((9, 1, 2, 1)):
        generation.submit(request(name, tokens), None).add_done_callback(lambda _, name=name: done.append(name))
    engine.going.set()
    until(lambda: len(done) == 4)
    assert done == [1, 2, 3, 0] and engine.most == 2


def test_chunks_of_an_old_version_do_not_keep_a_newer_one_out(made: Made) -> None:
    """While old ones run and more wait, a published version is loaded as soon as the running ones have ended."""
    engine = Juggler()
    engine.going.clear()
    generation = made(engine)
    futures = [generation.submit(request(name, 2 + name % 2), None) for name in range(8)]
    until(lambda: len(engine.running) == 2)
    generation.publish(4, weights(4))
    engine.going.set()
    assert [set(versions(future)) for future in futures] == [{0}] * 2 + [{4}] * 6
    assert [entry for entry in engine.log if entry[0] == "load"] == [("load", 0), ("load", 4)]


def test_an_evaluation_goes_before_what_waits_and_is_of_its_version(made: Made) -> None:
    engine = Juggler()
    engine.going.clear()
    generation = made(engine)
    running = [generation.submit(request(name), 0) for name in range(2)]
    until(lambda: len(engine.running) == 2)
    waiting = [generation.submit(request(name), 0) for name in (2, 3)]
    generation.publish(4, weights(4))
    urgent = [generation.submit(request(name), 4, urgent=True) for name in (10, 11)]
    engine.going.set()
    assert [versions(future) for future in [*running, *waiting, *urgent]] == [[0]] * 4 + [[4]] * 2
    assert [name for name, _ in engine.log] == ["load", 0, 1, "load", 11, 10, "load", 2, 3]


def test_a_newer_version_is_taken_over_by_all_that_run_and_by_what_begins_then(made: Made) -> None:
    engine = Juggler()
    engine.going.clear()
    generation = made(engine, updating=True)
    futures = [generation.submit(request(name, 2), None) for name in range(2)]
    until(lambda: len(engine.running) == 2)
    generation.publish(4, weights(4))
    until(lambda: engine.version == 4)
    futures.append(generation.submit(request(2, 2), None))
    engine.going.set()
    assert [versions(future) for future in futures] == [[4, 4]] * 3
    assert set(generation._store._readers) == {4}
    assert engine.log == [("load", 0), (0, 0), (1, 0), (2, 4)]


def test_no_newer_version_takes_the_place_of_one_that_was_asked_for(made: Made) -> None:
    engine = Juggler()
    engine.going.clear()
    generation = made(engine, updating=True)
    named, free = generation.submit(request(0, 2), 0), generation.submit(request(1, 2), None)
    until(lambda: len(engine.running) == 2)
    generation.publish(4, weights(4))
    after = generation.submit(request(2, 2), None)
    engine.going.set()
    assert [versions(future) for future in (named, free, after)] == [[0, 0], [0, 0], [4, 4]]


def test_an_idle_engine_goes_before_one_that_has_a_chunk(made: Made) -> None:
    engines = [Juggler(), Juggler()]
    for engine in engines:
        engine.going.clear()
    generation = made(*engines)
    until(lambda: generation._tickets._waiting == 2)
    futures = [generation.submit(request(name), None) for name in range(2)]
    until(lambda: len(generation._tickets.running) == 2)
    assert [len(engine.running) for engine in engines] == [1, 1]
    for engine in engines:
        engine.going.set()
    assert [versions(future) for future in futures] == [[0], [0]]


def test_a_lost_engine_gives_back_all_that_it_had_in_their_order(made: Made) -> None:
    engine = Juggler(3, losses=2)
    engine.going.clear()
    generation = made(engine)
    futures = [generation.submit(request(name), None) for name in range(5)]
    until(lambda: engine.losses == 0 and len(engine.running) == 3)
    engine.going.set()
    assert [versions(future) for future in futures] == [[0]] * 5
    began = [name for name, _ in engine.log if name != "load"]
    assert began[-5:] == [0, 1, 2, 3, 4] and began.count(3) == 1
    assert not generation._tickets.running and set(generation._store._readers) == {0}


def test_what_is_lost_three_times_ends_the_run(made: Made) -> None:
    engine = Juggler(losses=3)
    engine.going.clear()
    generation = made(engine)
    futures = [generation.submit(request(name), None) for name in range(3)]
    for future in futures:
        with pytest.raises(RunFailed, match="failed 3 times on one chunk: it went away"):
            future.result(timeout=60)
    with pytest.raises(RunFailed):
        generation.check()


def test_no_engine_for_too_long_ends_the_run(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ALL_LOST_S", 0.05)
    here, away = Juggler(), Juggler()
    away.ready = lambda: bool(time.sleep(0.01))  # type: ignore[attr-defined]
    generation = made(here, away)
    time.sleep(0.2)
    assert versions(generation.submit(request(0), None)) == [0]  # one is there
    here.ready = away.ready  # type: ignore[attr-defined]
    here.losses = 1
    here.going.clear()
    futures = [generation.submit(request(name), None) for name in (1, 2)]
    with pytest.raises(RunFailed, match="no rollout engine has been ready"):
        futures[0].result(timeout=60)


def test_an_error_is_every_chunks_and_the_next_calls(made: Made) -> None:
    engine = Juggler()
    engine.going.clear()
    generation = made(engine)
    futures = [generation.submit(request(name), None) for name in range(3)]
    until(lambda: len(engine.running) == 2)
    engine.newer = lambda: 1 / 0
    for future in futures:
        with pytest.raises(ZeroDivisionError):
            future.result(timeout=60)
    with pytest.raises(ZeroDivisionError):
        generation.submit(request(9), None)


def test_closing_ends_the_workers_whatever_is_running(made: Made) -> None:
    engine = Juggler()
    engine.going.clear()
    generation = made(engine)
    futures = [generation.submit(request(name), None) for name in range(4)]
    until(lambda: len(engine.running) == 2)
    generation.close()
    assert engine.closed and not any(thread.is_alive() for thread in generation._threads)
    assert not any(future.done() for future in futures[2:])


def test_an_engine_that_has_one_chunk_at_a_time_gets_the_calls_that_it_always_got(made: Made) -> None:
    calls: list[tuple[str, int]] = []

    class Plain:
        version, newer, seconds = -1, None, {}

        def load(self, version: int, weights: Any) -> None:
            self.version = version
            calls.append(("load", version))

        def generate(self, request: Request) -> Rollouts:
            calls.append(("generate", int(request.keys[0, 0])))
            return Juggler()._rollouts(request, [self.version])

        def close(self) -> None: ...

    generation = made(Plain())
    generation.publish(4, weights(4))
    futures = [generation.submit(request(name), 4) for name in range(3)]
    assert [versions(future) for future in futures] == [[4]] * 3
    assert calls == [("load", 4), *(("generate", name) for name in range(3))]


class Shuffled:
    """An engine of ours with two chunks under way, of which any is done next: by its seeds, so in no order."""

    at_once = 2

    def __init__(self, engine: Any) -> None:
        self._engine, self.seconds, self._running = engine, engine.seconds, {}

    @property
    def version(self) -> int:
        return self._engine.version

    def load(self, version: int, weights: Any) -> None:
        assert not self._running
        self._engine.load(version, weights)

    def submit(self, number: int, request: Request) -> None:
        self._running[number] = request

    def poll(self) -> dict[int, Rollouts]:
        number = min(self._running, key=lambda n: int(self._running[n].keys[0, 0]))
        return {number: self._engine.generate(self._running.pop(number))}

    def close(self) -> None:
        self._engine.close()


@pytest.mark.parametrize(
    "driver",
    ["driver=overlapped", pytest.param("driver=ray", marks=pytest.mark.xdist_group("ray"))],
)
def test_chunks_that_are_done_in_no_order_train_the_weights_of_serial(
    run: Any, engines: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    lag = ("staleness=4", "rollout.chunks=4")
    serial = run(*lag)
    if driver == "driver=ray":
        request.getfixturevalue("cluster").cloudpickle.register_pickle_by_value(sys.modules[Shuffled.__module__])
    monkeypatch.setattr(TorchEngine, "chunks_at_once", classmethod(lambda cls, config: 2))
    engines(Shuffled)
    assert run(*lag, driver).sha256 == serial.sha256
