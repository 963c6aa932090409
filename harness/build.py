"""Config → parts. The only place that knows which class a name in the config stands for."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from harness.config import Config
from harness.drivers.generation import Generation, InlineGeneration, WorkerGeneration
from harness.drivers.queue import FirstComeQueue, ReplayQueue, RolloutQueue
from harness.drivers.weight_store import SnapshotStore
from harness.errors import UserError, nearest
from harness.lag import schedule
from harness.lag.policy import BoundedLag, ExactLag, StalenessPolicy
from harness.learner.learner import Learner
from harness.models.loading import LoadedModel, load_model
from harness.rollout.interface import RolloutEngine
from harness.rollout.torch_engine import TorchEngine
from harness.tasks.interface import Task
from harness.types import Request

OUR_PACKAGES = ("algorithms", "harness.tasks")


def target(section: str, node: dict[str, Any], allow_code: list[str]) -> Any:
    """The object a `_target_` mapping describes: the class signature is the schema.

    Only classes of our own packages are imported unless `allow_code` names more. Raises UserError.
    """
    parameters = dict(node)
    path = parameters.pop("_target_", None)
    if not isinstance(path, str) or "." not in path:
        raise UserError(f"{section}: no _target_ naming a class; choose one of conf/{section}")
    package = path.split(".")[0]
    if not any(path == p or path.startswith(p + ".") for p in (*OUR_PACKAGES, *allow_code)):
        raise UserError(f"{section}._target_={path}: code from outside; to run it add allow_code=[{package}]")
    module_name, _, class_name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{section}._target_={path}: cannot be imported ({error})") from error
    if not inspect.isclass(cls):
        raise UserError(f"{section}._target_={path}: not a class")
    known = [name for name in inspect.signature(cls).parameters if name != "self"]
    for name in parameters:
        if name not in known:
            raise UserError(f"{section}.{name}: no parameter of {class_name}; {nearest(name, known)}")
    try:
        return cls(**parameters)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{section}: {error}") from error


def algorithm(config: Config) -> Any:
    return target("algo", config.algo, config.allow_code)


def task(config: Config) -> Task:
    made: Task = target("task", config.task, config.allow_code)
    return made


def model(config: Config) -> LoadedModel:
    return load_model(config.served_model, config.device)


def learner(config: Config, loaded: LoadedModel) -> Learner:
    window = config.record.tokens
    return Learner(
        loaded.policy,
        algorithm(config),
        config.learner,
        updates_per_step=config.updates_per_step,
        group_size=config.rollout.group_size,
        temperature=config.rollout.temperature,
        behaviour=config.rollout.behaviour,
        max_new_tokens=config.rollout.max_new_tokens,
        record_tokens=None if window is None else (window[0], window[1]),
    )


def staleness_policy(config: Config) -> StalenessPolicy:
    kind = ExactLag if config.lag_name == "exact" else BoundedLag
    return kind(config.staleness, config.updates_per_step)


def rollout_queue(config: Config, generation: Generation, request: Callable[[int], Request]) -> RolloutQueue:
    parts: tuple[Any, ...] = (generation, staleness_policy(config), request, config.batches, config.rollout.chunks)
    if config.lag_name == "replay":
        return ReplayQueue(*parts, schedule=schedule.read(config))
    if config.lag_name == "bounded" and config.on_excess != "wait":
        return FirstComeQueue(*parts, mask=config.on_excess == "mask")
    return RolloutQueue(*parts)


def generation(config: Config, loaded: LoadedModel) -> Generation:
    """Inline with the learner's own weights, or beside it: one engine in a thread, or one in each Ray actor."""
    if config.driver == "serial":
        return InlineGeneration(rollout_engine(config, loaded))
    if config.driver == "overlapped":
        store, in_flight = SnapshotStore(config.max_versions), config.rollout.inflight != "drain"
        return WorkerGeneration([replica(config)], store, config.torch_threads, in_flight=in_flight)
    from harness.drivers import ray_actors

    size = sum(tensor.nbytes for tensor in loaded.module.state_dict().values())
    return ray_actors.generation(config, functools.partial(replica, config), size)


def replica(config: Config) -> RolloutEngine:
    """An engine with weights of its own, none loaded yet. Runs in a rollout actor, too."""
    return rollout_engine(config, load_model(config.served_model, config.device), version=-1)


def rollout_engine(config: Config, loaded: LoadedModel, version: int = 0) -> RolloutEngine:
    if config.engine_name == "vllm":
        # Imported late: only rollout=vllm needs vLLM.
        from harness.rollout.vllm_engine import VllmEngine

        return VllmEngine(config, loaded, version=version)
    end = loaded.tokenizer.eos_token_id
    return TorchEngine(loaded.policy, end, trainer_logp=config.rollout.behaviour == "trainer", version=version)
