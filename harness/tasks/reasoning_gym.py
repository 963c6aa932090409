"""`task=reasoning_gym task.name=…`: any of reasoning-gym's procedural tasks, graded by its own verifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.errors import UserError, nearest
from harness.rewards.pool import Job, shared_pool
from harness.rewards.reward import check_pool, grade
from harness.types import Grade, Problem

# reasoning-gym makes entry i of a data set from the number i; each split has a range of its own.
FIRST = {"validation": 0, "test": 1_000_000, "train": 2_000_000}
SEEDS_APART = 20_000_000
ATTEMPTS = 50
INSTRUCTION = "\n\nThink step by step, then give the answer between <answer> and </answer>.\n"


@dataclass(frozen=True)
class ReasoningGym:
    """name: of a reasoning-gym data set · options: its own settings · validation_problems, test_problems: sizes of
    the held-out splits (fewer where the task has not so many different ones)."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    validation_problems: int = 128
    test_problems: int = 128
    reward_timeout_s: float = 5.0
    reward_workers: int = 2

    def __post_init__(self) -> None:
        for count in ("validation_problems", "test_problems"):
            if not 1 <= getattr(self, count) <= 100_000:
                raise UserError(f"task.{count}={getattr(self, count)}: expected 1 to 100000 problems")
        check_pool(self.reward_timeout_s, self.reward_workers)
        dataset(self.name, self._options)

    @cached_property
    def _held_out(self) -> frozenset[str]:
        return frozenset(problem.id for split in self.evaluation_splits() for problem in self.split(split))

    @property
    def _options(self) -> tuple[tuple[str, Any], ...]:
        return tuple(sorted(self.options.items()))

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """Raises UserError where nearly every problem of the task is a held-out one."""
        first = FIRST["train"] + seed % 80 * SEEDS_APART
        problems = []
        for index in indices:
            tries = (self._problem(first + index + attempt * 1_000_003) for attempt in range(ATTEMPTS))
            problem = next((p for p in tries if p.id not in self._held_out), None)
            if problem is None:
                raise UserError(
                    f"task.name={self.name}: has too few different problems to keep training and evaluation apart; "
                    "lower task.validation_problems and task.test_problems"
                )
            problems.append(problem)
        return problems

    def split(self, name: str) -> list[Problem]:
        count = {"validation": self.validation_problems, "test": self.test_problems}[name]
        known = {p.id for p in self.split("validation")} if name == "test" else set()
        found: dict[str, Problem] = {}
        for i in range(4 * count):
            problem = self._problem(FIRST[name] + i)
            if problem.id not in known:
                found.setdefault(problem.id, problem)
            if len(found) == count:
                break
        if not found:
            raise UserError(f"task.name={self.name}: too few different problems for a {name} split")
        return list(found.values())

    def evaluation_splits(self) -> list[str]:
        return ["validation", "test"]

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        jobs = [
            Job("reasoning_gym", {"response": r, "name": self.name, "index": p.data["index"], "options": self.options})
            for p, r in zip(problems, responses, strict=True)
        ]
        return [grade(outcome) for outcome in shared_pool(self.reward_workers, self.reward_timeout_s).run(jobs)]

    def _problem(self, index: int) -> Problem:
        entry = dataset(self.name, self._options)[index]
        question = str(entry["question"])
        return Problem(question, question + INSTRUCTION, str(entry["answer"]), {"index": index})


def dataset(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    """The data set, made once a process. Raises UserError for an unknown name or a setting it refuses."""
    try:
        return _dataset(name, repr(options), dict(options))
    except (ValueError, TypeError, AssertionError) as error:
        from reasoning_gym.factory import DATASETS

        if name not in DATASETS:
            raise UserError(f"task.name={name}: no reasoning-gym task; {nearest(name, DATASETS)}") from error
        raise UserError(f"task.options={dict(options)}: refused by {name} ({error})") from error


_made: dict[tuple[str, str], Any] = {}


def _dataset(name: str, key: str, options: dict[str, Any]) -> Any:
    if (name, key) not in _made:
        import reasoning_gym

        _made[name, key] = reasoning_gym.create_dataset(name, seed=0, size=2**31 - 1, **options)
    return _made[name, key]
