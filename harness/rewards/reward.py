"""Scores → grades: the reward a task trains on, with an optional part for the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from harness.errors import require
from harness.rewards.own import CORRECT
from harness.rewards.pool import shared_pool
from harness.rewards.process import OWN, Job, Outcome
from harness.rewards.sandbox import require_sandbox
from harness.types import Grade, Problem

REWARDS = ("math", "gsm8k", "exact")


@dataclass(frozen=True)
class Reward:
    """What a response is worth.

    verifier: math (math-verify on the last \\boxed{}), gsm8k (the number after ####), exact (the whole response) or the
        dotted name of a function of the user's own (harness/rewards/own.py).
    format_reward: added to 0 or 1 for an answer that stands where the prompt asks for it.
    timeout_s: seconds of CPU time for grading one answer.
    workers: grading processes.
    """

    verifier: str = "math"
    format_reward: float = 0.0
    timeout_s: float = 5.0
    workers: int = 2

    def __post_init__(self) -> None:
        expected = f"one of {', '.join(REWARDS)}, or a function of your own such as my_package.score"
        require(self.verifier in REWARDS or self.is_own, "task.reward", self.verifier, expected)
        check_pool(self.timeout_s, self.workers)
        require(0 <= self.format_reward < 1, "task.format_reward", self.format_reward, "at least 0 and below 1")

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each response to the problem in the same place."""
        outcomes = self.outcomes(problems, responses)
        if self.is_own:
            return [own_grade(outcome) for outcome in outcomes]
        return [as_grade(outcome, self.format_reward) for outcome in outcomes]

    def outcomes(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Outcome]:
        """What the verifier finds in each response to the problem in the same place."""
        jobs = [self._job(problem, response) for problem, response in zip(problems, responses, strict=True)]
        return shared_pool(self.workers, self.timeout_s).run(jobs)

    @property
    def is_own(self) -> bool:
        """Whether the verifier is a function of the user's own."""
        return is_own(self.verifier)

    def _job(self, problem: Problem, response: str) -> Job:
        if not self.is_own:
            return Job(self.verifier, {"response": response, "answer": problem.answer})
        asked = {"problem": problem.data["problem"], "row": problem.data["row"]}
        return Job(OWN, {"response": response, "function": self.verifier, **asked})


def is_own(verifier: str) -> bool:
    """Whether the name of a verifier is the dotted one of a user's function."""
    return "." in verifier and all(part.isidentifier() for part in verifier.split("."))


def check_pool(timeout_s: float, workers: int) -> None:
    """Raises UserError for settings that no pool of grading processes can have, and where none can be confined.

    timeout_s: seconds of CPU time an answer.
    workers: processes.
    """
    require(0 < timeout_s < inf, "task.reward_timeout_s", timeout_s, "a positive number of seconds")
    require(workers >= 1, "task.reward_workers", workers, "at least 1 grading process")
    require_sandbox()


def as_grade(outcome: Outcome, format_reward: float = 0.0) -> Grade:
    """The grade of an answer whose verifier gave this outcome; correct only with the full score.

    outcome: score, format and failure.
    format_reward: added to the score where the format is right.
    """
    reward = outcome.score + format_reward * outcome.formatted
    return Grade(reward, outcome.score >= 1, outcome.failure)


def own_grade(outcome: Outcome) -> Grade:
    """The grade of a user's own function: its reward; right where its part `correct`, else its reward, is 1."""
    parts = {name: float(value) for name, value in outcome.details.items() if not isinstance(value, str)}
    return Grade(outcome.score, parts.get(CORRECT, outcome.score) >= 1, outcome.failure, parts)
