"""The parts of a run, wired for timing one at a time."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness import build, randomness
from harness.command.compose import set_project_root
from harness.command.plan import plan
from harness.config import Config
from harness.learner.learner import Learner
from harness.models.checks import resolve_path
from harness.models.loading import LoadedModel
from harness.models.memory import keep_freed_memory
from harness.rewards.grader import Grader
from harness.rollout.torch_engine import TorchEngine
from harness.tasks.prompts import PromptEncoder
from harness.types import GradedRollouts, Request


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
    set_project_root()
    with tempfile.TemporaryDirectory() as folder:
        (config,) = plan([f"runs_dir={Path(folder)}", *overrides]).cells
    model = build.model(config)
    rollout = config.rollout
    keys = randomness.keys(
        config.seed, "sample", 0, np.arange(rollout.prompts_per_step)[:, None], np.arange(rollout.group_size)
    )
    problems = build.task(config).train(config.seed, range(rollout.prompts_per_step))
    prompts = PromptEncoder(model.tokenizer, config.model).all(problems)
    engine = TorchEngine(config, model)
    request = Request(prompts, keys, rollout.temperature, rollout.max_new_tokens)
    return Workbench(config, model, engine, build.learner(config, model), request)


def random_model(folder: Path, width: int, layers: int, positions: int = 256) -> str:
    """A Qwen3 of another size with the tokenizer of the default, its weights random; returns the folder."""
    base = resolve_path("harness/assets/carry")
    config = AutoConfig.from_pretrained(base)
    config.update(
        {
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
            "layer_types": ["full_attention"] * layers,
            "max_position_embeddings": positions,
        }
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


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


def ratios(seconds: dict[str, list[float]], of: str, to: str) -> list[float]:
    """Of each round."""
    return [a / b for a, b in zip(seconds[of], seconds[to], strict=True)]
