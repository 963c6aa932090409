"""What a task is: problems with a prompt, and a reward for a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Problem:
    """One problem.

    id      unique within the task, the same in every run (used to prove that splits do not overlap)
    prompt  text before the model's chat or plain template is applied
    answer  reference answer, in whatever form the task's own grader reads
    data    further columns the grader wants
    """

    id: str
    prompt: str
    answer: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """reward as trained on (usually 0 or 1); correct counts for accuracy; failure names a grader's
    time-out or crash ("" if none), which is reward 0 and counted."""

    reward: float
    correct: bool
    failure: str = ""


class Grades(Protocol):
    """Whatever can tell right from wrong."""

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each pair. Never raises on account of a response's text."""
        ...


class Task(Grades, Protocol):
    """Training problems are an endless stream keyed by consumption index, so every algorithm and every
    staleness sees the same prompts in the same order (common random numbers)."""

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """The training problems with the given consumption indices."""
        ...

    def split(self, name: str) -> list[Problem]:
        """All problems of an evaluation split."""
        ...

    def evaluation_splits(self) -> list[str]:
        """Names of the evaluation splits: "validation", which chooses the checkpoint, first; "test" if there is one."""
        ...
