"""What tasks made from nothing share: how problems are divided among splits, and splits of a chosen size."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from harness.errors import UserError, require
from harness.types import Problem

PARTS = 10  # of the problem space, by hash: one is validation, one test, the rest training
MOST = 100_000  # problems a held-out split may have
CANDIDATES = 50  # drawn for each problem of a split; if they hold too few different ones, there are too few


def split_of(text: str) -> str:
    """The split that a problem belongs to, by a hash of its text: splits cannot overlap whatever the settings.

    text: what makes the problem the same problem.
    Returns "train", "validation" or "test".
    """
    return {0: "validation", 1: "test"}.get(zlib.crc32(text.encode()) % PARTS, "train")


def different(candidates: Iterable[Problem], count: int) -> list[Problem]:
    """The first problems with different ids.

    candidates: problems in their order; no more of them are drawn than are needed.
    count: how many are wanted.
    Returns `count` problems, fewer if there are not so many.
    """
    result: dict[str, Problem] = {}
    for problem in candidates:
        result.setdefault(problem.id, problem)
        if len(result) == count:
            break
    return list(result.values())


@dataclass(frozen=True, kw_only=True)
class GeneratedTask:
    """Base of a task whose problems are made from nothing, with two held-out splits.

    validation_problems: size of the split that chooses the checkpoint.
    test_problems: size of the test split.
    """

    validation_problems: int = 128
    test_problems: int = 256

    def __post_init__(self) -> None:
        for split in self.evaluation_splits():
            expected = f"1 to {MOST} problems"
            require(1 <= self.size(split) <= MOST, f"task.{split}_problems", self.size(split), expected)

    def evaluation_splits(self) -> list[str]:
        """Names of the held-out splits, the one that chooses the checkpoint first."""
        return ["validation", "test"]

    def size(self, split: str) -> int:
        """Problems of a held-out split."""
        return {"validation": self.validation_problems, "test": self.test_problems}[split]

    def fill(self, split: str, candidates: Iterable[Problem]) -> list[Problem]:
        """A held-out split.

        split: its name.
        candidates: problems of that split, at least CANDIDATES for each one wanted.
        Returns `size(split)` different problems.
        Raises UserError where there are not so many.
        """
        problems = different(candidates, self.size(split))
        if len(problems) < self.size(split):
            raise UserError(
                f"task.{split}_problems={self.size(split)}: only {len(problems)} different problems could be made; "
                "lower it or choose larger problems"
            )
        return problems
