"""What a task is: problems with a prompt, and a reward for a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from harness.types import Grades, Problem


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
