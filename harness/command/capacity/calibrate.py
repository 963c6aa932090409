"""`calibrate=true`: a few rollout batches and their updates, timed on this machine, in memory alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean, pstdev

import torch

from harness import build
from harness.command.capacity.memory import CHECKPOINT_BYTES
from harness.command.capacity.rates import DISK, Rates, shared
from harness.config import Config
from harness.drivers.weight_store import copied
from harness.learner.learner import Learner
from harness.models.loading import LoadedModel, longest_prompt
from harness.rewards.grader import Grader
from harness.rollout.base import BaseEngine
from harness.tasks.prepare import prepare
from harness.tasks.prompts import PromptEncoder
from harness.tasks.requests import Requests
from harness.types import concatenate

BATCHES = 3  # of which the first warms up
LAG_KEYS = ("lag", "staleness", "seed", "updates", "choices")  # what the seconds do not depend on
_seen: dict[str, Rates] = {}


def measured(config: Config, answers: int) -> Rates:
    """The seconds of a chunk, an update, a publication, grading: by one engine and one rank, alone on the machine.

    Ranks are taken to share an update evenly; a learner and an engine on one accelerator to slow each other down.
    Cells that differ in lag, seed or length alone are measured once.

    answers: responses of an evaluation.
    Raises UserError for a model or data that cannot be read.
    """
    asked = repr({name: value for name, value in config.identity().items() if name.split(".")[0] not in LAG_KEYS})
    if asked not in _seen:
        _seen[asked] = _measured(config, answers)
    return _seen[asked]


def _measured(config: Config, answers: int) -> Rates:
    alone = replace(config, ranks=1, driver="serial")
    torch.set_num_threads(config.torch_threads)
    model = build.model(alone)
    engine = build.rollout_engine(alone, model)
    try:
        rates = _timed(alone, model, engine, answers)
    finally:
        engine.close()
    rates = replace(rates, update=rates.update / config.ranks)
    return shared(rates, config) if config.driver == "overlapped" and config.device != "cpu" else rates


def _timed(config: Config, model: LoadedModel, engine: BaseEngine, answers: int) -> Rates:
    encode = PromptEncoder(model.tokenizer, config.model)
    task = prepare(config, build.task(config), encode, longest_prompt(config)).task
    requests, grader = Requests(config, task, encode), Grader(task, model.tokenizer, config.learner.truncated)
    learner, clock = build.learner(config, model), Stopwatch()
    for number in range(BATCHES):
        _one_batch(number, config, requests, grader, learner, engine, clock)
    responses = config.rollout.prompts_per_step * config.rollout.group_size
    size = sum(parameter.numel() for parameter in model.module.parameters())
    update, chunk, grading = clock.mean("update"), clock.mean("chunk"), clock.mean("grading")
    return Rates(
        update=update + grading / config.updates_per_step,
        chunk=chunk,
        publish=clock.mean("publishing"),
        evaluation_sampling=chunk * config.rollout.chunks * answers / responses,
        evaluation_grading=grading * answers / responses,
        checkpoint=CHECKPOINT_BYTES * size / DISK,
        spread=max(clock.spread("chunk"), clock.spread("update")),
    )


def _one_batch(
    number: int,
    config: Config,
    requests: Requests,
    grader: Grader,
    learner: Learner,
    engine: BaseEngine,
    clock: Stopwatch,
) -> None:
    """Samples, grades and learns from the number-th batch as `Training` does."""
    parts, problems = [], []
    for index in range(number * config.rollout.chunks, (number + 1) * config.rollout.chunks):
        with clock("chunk"):
            parts.append(engine.generate(requests.request(index)))
        problems += requests.problems(index)
    with clock("grading"):
        graded, _ = grader(problems, concatenate(parts))
    steps = learner.step(graded)
    for _ in range(config.updates_per_step):
        with clock("update"):
            next(steps)
    with clock("publishing"):
        engine.load(learner.version, copied(learner.policy.model.state_dict()))


class Stopwatch:
    """Seconds by name. What an accelerator still computes is waited for; the first of a name only warms up."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self._seconds.setdefault(name, []).append(time.perf_counter() - started)

    def mean(self, name: str) -> float:
        return fmean(self._seconds[name][1:])

    def spread(self, name: str) -> float:
        """Standard deviation over mean, at most 1."""
        return min(pstdev(self._seconds[name][1:]) / self.mean(name), 1.0)
