"""What a task is: problems with a prompt, and a reward for a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from harness.types import Grades, Problem


class Task(Grades, Protocol):
    """Problems to train and evaluate on, and their grader.

    Training problems are an endless stream keyed by consumption index, so every algorithm and every staleness sees
    the same prompts in the same order (common random numbers).

    A task may declare `max_new_tokens` and `max_prompt_tokens`, what rollout's keys of that name stand for while they
    are null; else they are 1024. A response takes at most half of the model's positions. `longest_prompt`, in tokens,
    is what a plan counts with where a task's prompts are all shorter than that. One that has
    `expected_length(problem) -> float`, in any unit, can be asked for staleness=by_length.
    """

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """Training problems.

        seed: of the run.
        indices: consumption indices, from 0 without end.
        Returns a problem an index.
        """
        ...

    def split(self, name: str) -> list[Problem]:
        """All problems of the evaluation split `name`, the same whatever the seed."""
        ...

    def evaluation_splits(self) -> list[str]:
        """Names of the evaluation splits: "validation", which chooses the checkpoint, first; "test" if there is one."""
        ...
