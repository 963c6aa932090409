"""How large a step an update makes: the learning rate as a function of the update, and of what its data are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.groups import LearnerConfig


def learning_rate(config: LearnerConfig, done: int, updates: int | None) -> float:
    """The scheduled learning rate of one update, a function of its number alone, so that a resumed run has it too.

    config: `lr`, `warmup`, `schedule`.
    done: updates made before it; refused ones count.
    updates: of the whole run; needed where the rate falls.
    Returns lr · (done + 1)/warmup in the warm-up; then lr, or its linear or cosine fall to 0 after the last update.
    """
    if done < config.warmup:
        return config.lr * (done + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    if updates is None:
        raise ValueError(f"learner.schedule={config.schedule}: needs the number of updates of the run")
    progress = (done - config.warmup) / (updates - config.warmup)
    return config.lr * (1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2)


def step_factor(config: LearnerConfig, metrics: Mapping[str, float]) -> float:
    """The factor on the learning rate: 1, or √ESS of the sequences' importance ratios (VCPO, arXiv 2602.17616).

    metrics: of the mini-batch; `ess_sequence` is ESS/B, from 1/B to 1.
    """
    return math.sqrt(metrics["ess_sequence"]) if config.step_scale == "sqrt_ess" else 1.0
