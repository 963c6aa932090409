"""driver=ray: rollout engines in Ray actors, each behind a proxy that is an engine itself.

An actor holds nothing that matters: a call names the weights (by reference into the object store, put there
once a version) and the request carries its seeds. So an actor that was killed, hangs or raises is replaced
and the chunk is generated again, token for token.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.config import Config
from harness.drivers import ray_cluster
from harness.drivers.generation import WorkerGeneration
from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.groups import RayConfig
from harness.rollout.interface import Newer, RolloutEngine, StateDict
from harness.types import Request, Rollouts

ATTEMPTS = 3  # for one chunk: what fails as often is no accident
START_TIMEOUT_S = 300.0  # importing torch and loading a model, on a slow disk


@dataclass(frozen=True)
class StoredWeights:
    """A snapshot in Ray's object store; it lives as long as this reference."""

    reference: Any


def stored(weights: StateDict) -> StoredWeights:
    """Numpy shares memory with every actor of a machine; torch's own pickling copies."""
    return StoredWeights(ray_cluster.import_ray().put({name: t.detach().cpu().numpy() for name, t in weights.items()}))


class RolloutActor:
    """What runs in an actor's process."""

    def __init__(self, make_engine: Callable[[], RolloutEngine], threads: int) -> None:
        torch.set_num_threads(threads)
        self._engine = make_engine()

    def ready(self) -> None:
        """Answers once the engine is there."""

    def generate(self, version: int, weights: StoredWeights, request: Request) -> Rollouts:
        if self._engine.version != version:
            arrays: Mapping[str, Any] = ray_cluster.import_ray().get(weights.reference)
            # A copy, for Ray's memory is read-only and torch would warn about it.
            self._engine.load(version, {name: torch.tensor(array) for name, array in arrays.items()})
        return self._engine.generate(request)


class RayEngine:
    """A RolloutEngine whose work is done by an actor, replaced when it fails.

    Raises RunFailed when one chunk fails ATTEMPTS times, with what the last actor said.
    """

    def __init__(self, make_engine: Callable[[], RolloutEngine], config: RayConfig, threads: int) -> None:
        self.version = -1
        self.seconds: dict[str, float] = defaultdict(float)  # all that an actor does counts as generation
        self.newer: Newer | None = None  # never asked: an actor takes weights between chunks
        self._weights: StoredWeights | None = None
        self._make_engine, self._config, self._threads = make_engine, config, threads
        self._ray = ray_cluster.import_ray()
        self._change = threading.Lock()
        self._closed = False
        self._ready = False
        self._actor: Any = self._start()

    def load(self, version: int, weights: StoredWeights) -> None:
        """Weights travel when the actor first needs them."""
        self.version, self._weights = version, weights

    def generate(self, request: Request) -> Rollouts:
        for attempt in range(1, ATTEMPTS + 1):
            started = time.perf_counter()
            try:
                rollouts = self._call(request)
                self.seconds["generation"] += time.perf_counter() - started
                return rollouts
            except self._ray.exceptions.RayError as error:
                reason = error
                self._replace()
                if attempt == ATTEMPTS:
                    break
        raise RunFailed(f"rollout actors failed {ATTEMPTS} times on one chunk: {_one_line(reason)}") from reason

    def close(self) -> None:
        """Ends the actor, whatever it does; a call that waits for it raises."""
        with self._change:
            self._closed = True
            self._ray.kill(self._actor, no_restart=True)

    def _call(self, request: Request) -> Rollouts:
        if not self._ready:
            self._ray.get(self._actor.ready.remote(), timeout=START_TIMEOUT_S)
            self._ready = True
        call = self._actor.generate.remote(self.version, self._weights, request)
        rollouts: Rollouts = self._ray.get(call, timeout=self._config.chunk_timeout_s)
        return rollouts

    def _start(self) -> Any:
        remote = self._ray.remote(RolloutActor).options(
            num_cpus=self._config.cpus_per_actor,
            num_gpus=self._config.gpus_per_actor,
            max_restarts=0,
            runtime_env={"env_vars": _environment(self._threads)},
        )
        return remote.remote(self._make_engine, self._threads)

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
    stop = ray_cluster.connect(config.ray, weights_bytes, max_versions)
    try:
        engines = [RayEngine(make_engine, config.ray, config.torch_threads) for _ in range(config.ray.actors)]
    except BaseException:
        stop()
        raise
    return WorkerGeneration(engines, SnapshotStore(max_versions, stored), config.torch_threads, stop)


def _environment(threads: int) -> dict[str, str]:
    """An actor imports the very code of this process and computes with as many threads."""
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0"),
    }


def _one_line(error: BaseException) -> str:
    """What an actor raised, in one line."""
    cause = getattr(error, "cause", None) or error
    text = str(cause).strip() or type(cause).__name__
    return f"{type(cause).__name__}: {text.splitlines()[-1]}"
