"""Scores → grades: the reward a task trains on, with an optional part for the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UserError
from harness.rewards.pool import Job, Outcome, shared_pool
from harness.types import Grade, Problem

REWARDS = ("math", "gsm8k", "exact")


@dataclass(frozen=True)
class Reward:
    """verifier: math (math-verify on the last \\boxed{}), gsm8k (the number after ####) or exact
    format_reward: added to 0 or 1 for an answer that stands where the prompt asks for it
    timeout_s: wall-clock seconds an answer · workers: grading processes"""

    verifier: str = "math"
    format_reward: float = 0.0
    timeout_s: float = 5.0
    workers: int = 2

    def __post_init__(self) -> None:
        if self.verifier not in REWARDS:
            raise UserError(f"task.reward={self.verifier}: expected one of {', '.join(REWARDS)}")
        check_pool(self.timeout_s, self.workers)
        if not 0 <= self.format_reward < 1:
            raise UserError(f"task.format_reward={self.format_reward}: expected at least 0 and below 1")

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        jobs = [
            Job(self.verifier, {"response": response, "answer": problem.answer})
            for problem, response in zip(problems, responses, strict=True)
        ]
        outcomes = shared_pool(self.workers, self.timeout_s).run(jobs)
        return [grade(outcome, self.format_reward) for outcome in outcomes]


def check_pool(timeout_s: float, workers: int) -> None:
    """Raises UserError for settings that no pool can have."""
    if not 0 < timeout_s < float("inf"):
        raise UserError(f"task.reward_timeout_s={timeout_s}: expected a positive number of seconds")
    if workers < 1:
        raise UserError(f"task.reward_workers={workers}: expected at least 1 grading process")


def grade(outcome: Outcome, format_reward: float = 0.0) -> Grade:
    reward = outcome.score + format_reward * outcome.formatted
    return Grade(reward, outcome.score >= 1, outcome.failure)
