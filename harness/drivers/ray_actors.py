"""driver=ray: rollout engines in Ray actors, each behind a proxy that is an engine itself.

An actor holds nothing that matters: a call names the weights (by reference into the object store, put there
once a version) and the request carries its seeds. So an actor that hangs, raises or was killed (its node, too) is
replaced, and another one generates the chunk again, token for token.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.config import Config
from harness.drivers import ray_cluster, ray_room
from harness.drivers.generation import ATTEMPTS, EngineLost, WorkerGeneration
from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.groups import RayConfig
from harness.models.checks import resolve_path
from harness.rollout.interface import RolloutEngine, StateDict
from harness.types import Request, Rollouts

LOOK_S = 1.0  # between two looks whether an actor has started
OFFER_S = 0.05  # between two looks whether there are newer weights for what an actor generates
OFFERS = "offers"  # the thread of an actor that takes them


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
        self._offered: tuple[int, StoredWeights] | None = None

    def ready(self) -> str:
        """Answers once the engine is there, with the digest of what it was made from."""
        return self._digest

    def generate(self, version: int, weights: StoredWeights, request: Request) -> Rollouts:
        if self._engine.version != version:
            self._engine.load(version, _fetched(weights))
        self._engine.newer = self._newer
        return self._engine.generate(request)

    def offer(self, version: int, weights: StoredWeights) -> None:
        """Newer weights for what is being generated, in a thread beside it (rollout.inflight)."""
        self._offered = version, weights

    def _newer(self) -> tuple[int, StateDict] | None:
        """What was offered, once. One that came too late, for a chunk that is done, is no newer than the next one's."""
        offered, self._offered = self._offered, None
        if offered is None or offered[0] <= self._engine.version:
            return None
        return offered[0], _fetched(offered[1])


def _fetched(weights: StoredWeights) -> StateDict:
    """A copy, for Ray's memory is read-only and torch would warn about it."""
    arrays: Mapping[str, Any] = ray_cluster.import_ray().get(weights.reference)
    return {name: torch.tensor(array) for name, array in arrays.items()}


class RayEngine:
    """A RolloutEngine whose work is done by an actor, replaced when it fails.

    model: path of the model that the actor's node must have as well.
    """

    def __init__(self, make_engine: Callable[[], RolloutEngine], config: RayConfig, threads: int, model: str) -> None:
        self.version = -1
        self.seconds: dict[str, float] = defaultdict(float)  # all that an actor does counts as generation
        self.newer: Callable[[], tuple[int, Any] | None] | None = None  # asked where weights change in flight
        self._weights: StoredWeights | None = None
        self._make_engine, self._config, self._threads, self._model = make_engine, config, threads, model
        self._ray = ray_cluster.import_ray()
        self._change = threading.Lock()
        self._closed = False
        self._ready, self._failed_starts = False, 0
        self._actor: Any = self._start()

    def load(self, version: int, weights: StoredWeights) -> None:
        """Weights travel when the actor first needs them."""
        self.version, self._weights = version, weights

    def generate(self, request: Request) -> Rollouts:
        """Raises EngineLost, once the actor is replaced, with what the last one said."""
        call = self._actor.generate.remote(self.version, self._weights, request)
        started = time.perf_counter()
        try:
            rollouts = self._result(call)
        except self._ray.exceptions.RayError as error:
            self._replace()
            raise EngineLost(_one_line(error)) from error
        self.seconds["generation"] += time.perf_counter() - started
        return rollouts

    def _result(self, call: Any) -> Rollouts:
        """What a call of the actor returns; meanwhile it is offered every newer version."""
        deadline = time.monotonic() + self._config.chunk_timeout_s
        while self.newer is not None and time.monotonic() < deadline:
            done, _ = self._ray.wait([call], timeout=OFFER_S)
            if done:
                break
            if (newer := self.newer()) is not None:
                self._actor.offer.options(concurrency_group=OFFERS).remote(*newer)
        rollouts: Rollouts = self._ray.get(call, timeout=max(0.0, deadline - time.monotonic()))
        return rollouts

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
            concurrency_groups={OFFERS: 1},
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
            self._ready = False
            self._actor = self._start()


def generation(
    config: Config, make_engine: Callable[[], RolloutEngine], weights_bytes: int, max_versions: int
) -> WorkerGeneration:
    """A cluster, its actors and the workers that feed them.

    make_engine: makes an actor's engine in the actor's process; picklable.
    weights_bytes: size of one version's weights.
    max_versions: versions alive at once.
    """
    stop = ray_cluster.connect(config.ray, weights_bytes, max_versions, config.allow_code)
    try:
        if not config.ranks_in_cluster:  # they have reserved theirs
            ray_room.reserve(ray_room.learner_gpus(config))
        settings = config.ray, config.torch_threads, config.served_model.path
        engines = [RayEngine(make_engine, *settings) for _ in range(config.ray.actors)]
    except BaseException:
        stop()
        raise
    store, in_flight = SnapshotStore(max_versions, stored), config.rollout.inflight != "drain"
    return WorkerGeneration(engines, store, config.torch_threads, stop, in_flight=in_flight)


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
