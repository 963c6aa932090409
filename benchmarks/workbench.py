"""The parts of a run, wired for timing one at a time."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import build, frontdoor, randomness
from harness.config import Config
from harness.grading import Grader
from harness.learner.batch import GradedRollouts
from harness.learner.learner import Learner
from harness.memory import keep_freed_memory
from harness.models.loading import LoadedModel
from harness.rollout.interface import Request
from harness.rollout.prompts import PromptEncoder
from harness.rollout.torch_engine import TorchEngine


@dataclass(frozen=True)
class Workbench:
    """One config's model, engine, learner, first request and the graded rollouts it leads to."""

    config: Config
    model: LoadedModel
    engine: TorchEngine
    learner: Learner
    request: Request

    def graded(self) -> GradedRollouts:
        task = build.task(self.config)
        problems = task.train(self.config.seed, range(self.config.rollout.prompts_per_step))
        grader = Grader(task, self.model.tokenizer, self.config.learner.truncated)
        graded, _ = grader(problems, self.engine.generate(self.request))
        return graded


def workbench(*overrides: str) -> Workbench:
    keep_freed_memory()
    frontdoor.set_project_root()
    with tempfile.TemporaryDirectory() as folder:
        (config,) = frontdoor.plan([f"runs_dir={Path(folder)}", *overrides]).cells
    model = build.model(config)
    rollout = config.rollout
    keys = randomness.keys(
        config.seed, "sample", 0, np.arange(rollout.prompts_per_step)[:, None], np.arange(rollout.group_size)
    )
    problems = build.task(config).train(config.seed, range(rollout.prompts_per_step))
    prompts = PromptEncoder(model.tokenizer, config.model).all(problems)
    engine = TorchEngine(model.policy, model.tokenizer.eos_token_id, trainer_logp=True)
    request = Request(prompts, keys, rollout.temperature, rollout.max_new_tokens)
    return Workbench(config, model, engine, build.learner(config, model), request)


def interleaved(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each contender, one call each a round; the first round warms up.

    CPU time of the process, not the clock on the wall: a busy neighbour moves it less.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repeats + 1):
        for name, call in contenders.items():
            started = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], of: str, to: str) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True))
