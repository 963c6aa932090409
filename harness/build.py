"""Config → parts. The only place that knows which class a name in the config stands for."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from omegaconf import OmegaConf

import algorithms
from harness import SETTINGS
from harness.config import Config
from harness.drivers import queue, ray_ranks
from harness.drivers.generation import Generation, InlineGeneration, WorkerGeneration
from harness.drivers.mixed_queue import MixedQueue
from harness.drivers.partial_queue import PartialQueue
from harness.drivers.weight_store import SnapshotStore
from harness.errors import UserError, nearest, not_imported
from harness.groups import ModelConfig
from harness.lag import spelt
from harness.lag.mixture import MixedLag
from harness.lag.partial import PartialLag
from harness.lag.policy import ExactLag, StalenessPolicy
from harness.learner.learner import Learner
from harness.learner.shadow import Shadows
from harness.models.loading import LoadedModel, load_model, load_skeleton, weight_files
from harness.models.policy import Policy
from harness.ranks import group
from harness.ranks.alone import Alone
from harness.ranks.sharding import materialise
from harness.rewards import sandbox
from harness.rewards.own import load_function
from harness.rewards.reward import is_own
from harness.rollout.base import BaseEngine
from harness.tasks.interface import Task
from harness.tasks.requests import Requests

HINT = "expected_length"  # of a task: how long a response to a problem is likely to be
OUR_PACKAGES = ("algorithms", "harness.tasks", "harness.lag", "harness.rollout")


def named_class(section: str, path: object, allow_code: list[str], kind: type = object) -> type[Any]:
    """The class that `section._target_` names.

    section: the config group it stands in, for messages.
    path: dotted name; its module is imported only where it is one of our packages or of allow_code.
    kind: what the class must derive from.
    Raises UserError.
    """
    if not isinstance(path, str) or "." not in path:
        raise UserError(f"{section}: no _target_ naming a class; choose one of conf/{section}")
    if not any(path == p or path.startswith(p + ".") for p in (*OUR_PACKAGES, *allow_code)):
        package = path.split(".")[0]
        raise UserError(f"{section}._target_={path}: code from outside; to run it add allow_code=[{package}]")
    module_name, _, class_name = path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise not_imported(f"{section}._target_={path}", error) from error
    if not inspect.isclass(cls):
        raise UserError(f"{section}._target_={path}: not a class")
    if not issubclass(cls, kind) or cls is kind or inspect.isabstract(cls):
        raise UserError(f"{section}._target_={path}: expected a class derived from {kind.__module__}.{kind.__name__}")
    return cls


def check_reward(path: object, allow_code: list[str]) -> None:
    """Raises UserError for a `task.reward` from outside that may not run or is no function. path: its value."""
    if not isinstance(path, str) or not is_own(path):
        return
    if not any(path.startswith(package + ".") for package in allow_code):
        raise UserError(f"task.reward={path}: code from outside; to run it add allow_code=[{path.split('.')[0]}]")
    load_function(path)


def check_parameters(section: str, cls: type, parameters: Iterable[str], positional: int = 0) -> None:
    """Raises UserError for a name that is no parameter of the class; its signature is the schema.

    positional: how many parameters the harness itself gives, first.
    """
    names = list(inspect.signature(cls).parameters)[positional:]
    for name in parameters:
        if name not in names:
            hint = nearest(name, names) if names else "it has none"
            raise UserError(f"{section}.{name}: no parameter of {cls.__name__}; {hint}")


def target(section: str, node: dict[str, Any], allow_code: list[str], *given: Any, kind: type = object) -> Any:
    """The object that a mapping with a `_target_` describes.

    section, allow_code, kind: as named_class's.
    node: `_target_` and the parameters of the class.
    given: its first parameters, which the harness knows.
    Raises UserError.
    """
    parameters = dict(node)
    cls = named_class(section, parameters.pop("_target_", None), allow_code, kind)
    check_parameters(section, cls, parameters, len(given))
    try:
        return cls(*given, **parameters)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{section}: {error}") from error


def algorithm(config: Config) -> Any:
    return target("algo", config.algo, config.allow_code, kind=algorithms.Algorithm)


def task(config: Config) -> Task:
    sandbox.switch(config.sandbox == "on")
    check_reward(config.task.get("reward"), config.allow_code)
    made: Task = target("task", config.task, config.allow_code)
    missing = [name for name in ("train", "split", "grade", "evaluation_splits") if not hasattr(made, name)]
    if missing:
        raise UserError(
            f"task._target_={config.task['_target_']}: has no {', '.join(missing)}; see harness/tasks/interface.py"
        )
    return made


def model(config: Config) -> LoadedModel:
    return load_model(config.served_model, config.device)


def ranks(config: Config) -> Alone:
    """The processes that share the learner: they are started, and have been told the config."""
    if config.ranks == 1 or config.mode == "evaluate":
        return Alone()
    started = ray_ranks.TaskFollowers(config) if config.ranks_in_cluster else None
    made = group.lead(config.ranks, config.device, started)
    made.order("run", config)
    return made


def learner_model(config: Config, ranks: Alone) -> LoadedModel:
    """The model that learns, or this rank's slices of it."""
    return _in_slices(config.served_model, config, ranks)


def _in_slices(model: ModelConfig, config: Config, ranks: Alone) -> LoadedModel:
    if ranks.world == 1:
        return load_model(model, config.device)
    loaded = load_skeleton(model)
    ranks.shard(loaded.policy, config.learner.sum)
    materialise(loaded.module, weight_files(model.path), model.path)
    return loaded


def learner(config: Config, loaded: LoadedModel, ranks: Alone | None = None) -> Learner:
    ranks = ranks or Alone()
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
        updates=config.updates,
        reference=reference(config, ranks),
        shadows=shadows(config),
        ranks=ranks,
        deterministic=config.deterministic,
    )


def shadows(config: Config) -> Shadows:
    """The methods that `record.shadow` names, as conf/algo has them; the one that trains, as the run has it."""
    files = {path.stem: path for path in (SETTINGS / "conf" / "algo").glob("*.yaml")}
    names = algorithms.names() if config.record.shadow == "all" else config.record.shadow
    if not isinstance(names, list):
        raise UserError(f"record.shadow={names}: expected all, or a list of names of conf/algo such as [grpo,topr]")
    methods: dict[str, Any] = {}
    for name in names:
        if name not in files:
            raise UserError(f"record.shadow={name}: no such algo; {nearest(name, list(files))}")
        node: Any = OmegaConf.to_container(OmegaConf.load(files[name]))
        own = name == config.choices["algo"]
        methods[name] = target("algo", config.algo if own else node, config.allow_code)
    return Shadows(methods, config.record.shadow_every)


def reference(config: Config, ranks: Alone) -> Policy | None:
    """The policy that the KL divergence is measured from, with weights of its own; None where there is no KL."""
    if config.learner.kl_coefficient == 0:
        return None
    return _in_slices(reference_model(config), config, ranks).policy


def reference_model(config: Config) -> ModelConfig:
    """The model of the reference policy: the run's own as it starts, or another folder of the same kind."""
    path = config.learner.reference
    return config.model if path == "initial" else replace(config.model, path=path)


def staleness_policy(config: Config) -> StalenessPolicy:
    """The policy that `lag` names, made as cls(staleness, updates_per_step, **further keys of lag).

    Where staleness is a distribution, that of lag=exact for one. Raises UserError.
    """
    if isinstance(config.staleness, str):
        return _spelt_lag(config, config.staleness)
    units = config.staleness, config.updates_per_step
    policy: StalenessPolicy = target("lag", config.lag, config.allow_code, *units, kind=StalenessPolicy)
    return policy


def _spelt_lag(config: Config, text: str) -> StalenessPolicy:
    cls = named_class("lag", config.lag.get("_target_"), config.allow_code, StalenessPolicy)
    if cls is not ExactLag:
        raise UserError(
            f"staleness={text} with lag={config.choices['lag']}: a distribution needs lag=exact, "
            "every age kept exactly; expected a number of updates"
        )
    further = {name: value for name, value in config.lag.items() if name != "_target_"}
    check_parameters("lag", cls, further, 2)
    policy = spelt.policy(text, config, further)
    by_length = isinstance(policy, MixedLag) and policy.ages.by_length
    if by_length and not hasattr(named_class("task", config.task.get("_target_"), config.allow_code), HINT):
        raise UserError(
            f"staleness={text}: task={config.choices['task']} does not say how long a response it expects; "
            f"choose a task that does (carry and its siblings), or give it a method {HINT}(problem)"
        )
    return policy


def rollout_queue(config: Config, generation: Generation, requests: Requests) -> queue.RolloutQueue:
    """The queue that serves the config's staleness policy."""
    policy, batches, chunks = staleness_policy(config), config.batches, config.rollout.chunks
    if isinstance(policy, PartialLag):
        return PartialQueue(generation, policy, requests.request, batches, chunks)
    if not isinstance(policy, MixedLag):
        return queue.rollout_queue(generation, policy, requests.request, batches, chunks)

    def versions(batch: int) -> np.ndarray:
        return policy.versions(batch, requests.expected_lengths(batch) if policy.ages.by_length else None)

    return MixedQueue(generation, policy, requests.of, versions, batches, chunks)


def generation(config: Config, loaded: LoadedModel) -> Generation:
    """Inline with the learner's own weights, or beside it: one engine in a thread, or one in each Ray actor."""
    if config.driver == "serial":
        return InlineGeneration(rollout_engine(config, loaded))
    versions = staleness_policy(config).max_versions
    if config.driver == "overlapped":
        updating = config.rollout.inflight != "drain"
        return WorkerGeneration([replica(config)], SnapshotStore(versions), config.torch_threads, updating=updating)
    # Imported late: only driver=ray needs Ray.
    from harness.drivers import ray_actors

    size = sum(tensor.nbytes for tensor in loaded.module.state_dict().values())
    at_once = engine_class(config).chunks_at_once(config)
    return ray_actors.generation(config, functools.partial(replica, config), size, versions, at_once)


def check_driver(config: Config) -> None:
    """Raises UserError for a driver, or a number of ranks, that cannot run here, or not with this config."""
    group.check(config)
    if config.driver == "ray":
        # Imported late: only driver=ray needs Ray.
        from harness.drivers import ray_room

        ray_room.check(config)


def replica(config: Config) -> BaseEngine:
    """An engine with weights of its own, none loaded yet. Runs in a rollout actor, too."""
    needed = engine_class(config).needs_replica(config)
    loaded = load_model(config.served_model, config.device) if needed else load_skeleton(config.served_model)
    return rollout_engine(config, loaded, version=-1)


def engine_class(config: Config) -> type[BaseEngine]:
    """The engine that `rollout` names. Raises UserError, also for rollout.options that it does not take."""
    cls = named_class("rollout", config.rollout._target_, config.allow_code, BaseEngine)
    check_parameters("rollout.options", cls, config.rollout.options, 3)
    return cls


def rollout_engine(config: Config, loaded: LoadedModel, version: int = 0) -> BaseEngine:
    """An engine of the config's.

    loaded: the trainer's model, or a replica of it.
    version: of its weights.
    """
    engine: BaseEngine = engine_class(config)(config, loaded, version, **config.rollout.options)
    return engine
