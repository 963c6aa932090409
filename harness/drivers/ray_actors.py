"""driver=ray: rollout engines in Ray actors, each behind a proxy that is an engine itself.

An actor holds nothing that matters: a call names the weights (by reference into the object store, put there
once a version) and the request carries its seeds. So an actor that hangs, raises or was killed (its node, too) is
replaced, and another one generates its chunks again, token for token.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import Config
from harness.drivers import ray_cluster, ray_room
from harness.drivers.generation import WorkerGeneration
from harness.drivers.tickets import ATTEMPTS, EngineLost
from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.groups import RayConfig
from harness.models.checks import resolve_path
from harness.rollout.interface import RolloutEngine, StateDict, chunks_of
from harness.types import Request, Rollouts

LOOK_S = 1.0  # between two looks whether an actor has started
OFFER_S = 0.05  # between two looks whether there are more chunks, or newer weights, for an actor that generates
BESIDE = "beside"  # the thread of an actor that takes them, in the order in which they were sent
ARRIVAL_S = 0.001  # between two looks of an actor for a chunk that is on its way


@dataclass(frozen=True)
class StoredWeights:
    """A snapshot in Ray's object store; it lives as long as this reference."""

    reference: Any


def stored(weights: StateDict) -> StoredWeights:
    """Numpy shares memory with every actor of a machine; torch's own pickling copies."""
    return StoredWeights(ray_cluster.import_ray().put({name: t.detach().cpu().numpy() for name, t in weights.items()}))


class RolloutActor:
    """What runs in an actor's process."""

    def __init__(self, make_engine: Callable[[], RolloutEngine], threads: int, model: str) -> None:
        torch.set_num_threads(threads)
        self._digest = digest(model)
        self._engine = make_engine()
        self._chunks = chunks_of(self._engine)
        self._asked: deque[tuple[int, int, Request]] = deque()
        self._running: set[int] = set()
        self._offered: deque[tuple[int, StoredWeights]] = deque(maxlen=1)

    def ready(self) -> str:
        """Answers once the engine is there, with the digest of what it was made from."""
        return self._digest

    def ask(self, version: int, number: int, request: Request) -> None:
        """A further chunk, in a thread beside what is being generated. version: the oldest that may sample it."""
        self._asked.append((version, number, request))

    def work(self, version: int, weights: StoredWeights) -> dict[int, Rollouts]:
        """Generates until one of the chunks asked for is done, or several at once are.

        version: for the next, loaded when none is running.
        """
        if not self._running and self._engine.version != version:
            self._engine.load(version, _fetched(weights))
        self._engine.newer = self._newer
        while True:
            # One for a version that was offered waits until the engine has taken it over.
            while self._asked and self._asked[0][0] <= self._engine.version:
                _, number, request = self._asked.popleft()
                self._chunks.submit(number, request)
                self._running.add(number)
            if not self._running:
                time.sleep(ARRIVAL_S)
            elif done := self._chunks.poll():
                self._running -= done.keys()
                return done

    def offer(self, version: int, weights: StoredWeights) -> None:
        """Newer weights for what is being generated, in a thread beside it (rollout.inflight)."""
        self._offered.append((version, weights))

    def _newer(self) -> tuple[int, StateDict] | None:
        """What was offered, once. One that came too late, for a chunk that is done, is no newer than the next one's."""
        if not self._offered:
            return None
        version, weights = self._offered.pop()
        return (version, _fetched(weights)) if version > self._engine.version else None


def _fetched(weights: StoredWeights) -> StateDict:
    """A copy, for Ray's memory is read-only and torch would warn about it."""
    arrays: Mapping[str, Any] = ray_cluster.import_ray().get(weights.reference)
    return {name: torch.tensor(array) for name, array in arrays.items()}


class RayEngine:
    """An engine whose work is done by an actor, replaced when it fails.

    model: path of the model that the actor's node must have as well.
    at_once: chunks that the actor's engine has in flight at most.
    """

    def __init__(
        self, make_engine: Callable[[], RolloutEngine], config: RayConfig, threads: int, model: str, at_once: int = 1
    ) -> None:
        self.version, self.at_once = -1, at_once
        self.seconds: dict[str, float] = defaultdict(float)  # all that an actor does counts as generation
        self.newer: Callable[[], tuple[int, Any] | None] | None = None  # asked where weights change in flight
        self._weights: StoredWeights | None = None
        self._running: set[int] = set()
        self._make_engine, self._config, self._threads, self._model = make_engine, config, threads, model
        self._ray = ray_cluster.import_ray()
        self._change = threading.Lock()
        self._closed = False
        self._ready, self._failed_starts = False, 0
        self._call: Any = None  # the actor's work, as long as nothing has come of it
        self._called = 0.0
        self._actor: Any = self._start()

    def load(self, version: int, weights: StoredWeights) -> None:
        """Weights travel when the actor first needs them."""
        self.version, self._weights = version, weights

    def submit(self, number: int, request: Request) -> None:
        self._running.add(number)
        self._actor.ask.options(concurrency_group=BESIDE).remote(self.version, number, request)

    def poll(self) -> dict[int, Rollouts]:
        """What the actor has done within OFFER_S; meanwhile it works.

        Raises EngineLost, once the actor is replaced, with what the last one said: also one that has done nothing for
        ray.chunk_timeout_s.
        """
        if self._call is None:
            self._call, self._called = self._actor.work.remote(self.version, self._weights), time.monotonic()
        left = max(0.0, self._called + self._config.chunk_timeout_s - time.monotonic())
        try:
            done, _ = self._ray.wait([self._call], timeout=min(OFFER_S, left))
            if not done and left > 0:
                self._offer()
                return {}
            rollouts: dict[int, Rollouts] = self._ray.get(self._call, timeout=left)
        except self._ray.exceptions.RayError as error:
            self._replace()
            raise EngineLost(_one_line(error)) from error
        self.seconds["generation"] += time.monotonic() - self._called
        self._call = None
        self._running -= rollouts.keys()
        if not self._running:
            self._forget()
        return rollouts

    def _forget(self) -> None:
        """Ray keeps a snapshot as long as anybody names it, and an actor without chunks may wait for long."""
        self.version, self._weights = -1, None

    def _offer(self) -> None:
        """Newer weights for the actor's chunks, if there are any: what is asked for from now on is for them."""
        if self.newer is not None and (newer := self.newer()) is not None:
            self.version, self._weights = newer
            self._actor.offer.options(concurrency_group=BESIDE).remote(*newer)

    def ready(self) -> bool:
        """Whether the actor is there, after LOOK_S at most; one that could not start is replaced.

        Raises RunFailed for one that cannot be started, or whose node has another model.
        """
        if self._ready:
            return True
        try:
            theirs = self._ray.get(self._starting, timeout=LOOK_S)
        except self._ray.exceptions.GetTimeoutError:
            return False
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts == ATTEMPTS:
                raise RunFailed(f"a rollout actor failed {ATTEMPTS} times to start: {_one_line(error)}") from error
            self._replace()
            return False
        if theirs != digest(self._model):
            raise RunFailed(f"a node of the Ray cluster has other code, or another configuration in {self._model}")
        self._ready, self._failed_starts = True, 0
        return True

    def close(self) -> None:
        """Ends the actor, whatever it does; a call that waits for it raises."""
        with self._change:
            self._closed = True
            self._ray.kill(self._actor, no_restart=True)

    def _start(self) -> Any:
        remote = self._ray.remote(
            num_cpus=self._config.cpus_per_actor,
            num_gpus=self._config.gpus_per_actor,
            max_restarts=0,
            concurrency_groups={BESIDE: 1},
            runtime_env={"env_vars": self._environment()},
        )
        actor = remote(RolloutActor).remote(self._make_engine, self._threads, self._model)
        self._starting = actor.ready.remote()
        return actor

    def _environment(self) -> dict[str, str]:
        """As many threads as here; where no code was sent, the very code of this process."""
        code = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return (code if ray_cluster.address_of(self._config) is None else {}) | {
            "OMP_NUM_THREADS": str(self._threads),
            "OMP_WAIT_POLICY": "passive",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0"),
        }

    def _replace(self) -> None:
        with self._change:
            self._ray.kill(self._actor, no_restart=True)
            if self._closed:
                raise RunFailed("the rollout actors were stopped")
            self._ready, self._call = False, None
            self._running.clear()
            self._forget()
            self._actor = self._start()


def generation(
    config: Config, make_engine: Callable[[], RolloutEngine], weights_bytes: int, max_versions: int, at_once: int
) -> WorkerGeneration:
    """A cluster, its actors and the workers that feed them.

    make_engine: makes an actor's engine in the actor's process; picklable.
    weights_bytes: size of one version's weights.
    max_versions: versions alive at once.
    at_once: chunks that an engine has in flight at most.
    """
    stop = ray_cluster.connect(config.ray, weights_bytes, max_versions, config.allow_code)
    try:
        if not config.ranks_in_cluster:  # they have reserved theirs
            ray_room.reserve(ray_room.learner_gpus(config))
        settings = config.ray, config.torch_threads, config.served_model.path
        engines = [RayEngine(make_engine, *settings, at_once) for _ in range(config.ray.actors)]
    except BaseException:
        stop()
        raise
    store, updating = SnapshotStore(max_versions, stored), config.rollout.inflight != "drain"
    return WorkerGeneration(engines, store, config.torch_threads, stop, updating=updating)


@functools.cache
def digest(path: str) -> str:
    """SHA-256 of our code, and of a model's configuration and tokenizer; its weights an engine is sent."""
    # Ray gives each package that is sent a folder of its own.
    folders = [Path(str(importlib.import_module(package).__file__)).parent for package in ray_cluster.OURS]
    code = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    model = [file for file in Path(resolve_path(path)).glob("*.json") if not file.name.endswith(".index.json")]
    made = hashlib.sha256()
    for file in [*code, *sorted(model)]:
        made.update(file.name.encode() + file.read_bytes())
    return made.hexdigest()


def _one_line(error: BaseException) -> str:
    """What an actor raised, in one line."""
    cause = getattr(error, "cause", None) or error
    text = str(cause).strip() or type(cause).__name__
    return f"{type(cause).__name__}: {text.splitlines()[-1]}"
