"""`task=reasoning_gym task.name=…`: reasoning-gym's procedural tasks, graded by their own verifiers.

Tasks whose verifier evaluates text are refused (harness/rewards/reasoning_gym.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.errors import UserError
from harness.rewards.pool import shared_pool
from harness.rewards.process import Job
from harness.rewards.reasoning_gym import Options, dataset
from harness.rewards.reward import as_grade, check_pool
from harness.tasks.generated import GeneratedTask, different
from harness.types import Grade, Problem

# reasoning-gym makes entry i of a data set from the number i; each split has a range of its own.
FIRST = {"validation": 0, "test": 1_000_000, "train": 2_000_000}
SEEDS_APART = 20_000_000
ATTEMPTS = 50
INSTRUCTION = "\n\nThink step by step, then give the answer between <answer> and </answer>.\n"


@dataclass(frozen=True)
class ReasoningGym(GeneratedTask):
    """A task of reasoning-gym; a held-out split is smaller than asked for where there are too few problems.

    name: of a reasoning-gym data set.
    options: settings of that data set.
    reward_timeout_s: seconds of CPU time for grading one answer.
    reward_workers: grading processes.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    test_problems: int = field(default=128, kw_only=True)
    reward_timeout_s: float = 5.0
    reward_workers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pool(self.reward_timeout_s, self.reward_workers)
        dataset(self.name, self._options)

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """The training problems with these consumption indices.

        Raises UserError where nearly every problem of the task is a held-out one.
        """
        first = FIRST["train"] + seed % 80 * SEEDS_APART
        return [self._not_held_out(first + index) for index in indices]

    def split(self, name: str) -> list[Problem]:
        """All problems of a held-out split; they do not depend on the run's seed. Raises UserError if there is none."""
        count = self.size(name)
        taken = {p.id for p in self.split("validation")} if name == "test" else set()
        candidates = (self._problem(FIRST[name] + i) for i in range(4 * count))
        problems = different((p for p in candidates if p.id not in taken), count)
        if not problems:
            raise UserError(f"task.name={self.name}: too few different problems for a {name} split")
        return problems

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each response: the score that reasoning-gym's own verifier gives it."""
        jobs = [
            Job("reasoning_gym", {"response": r, "name": self.name, "index": p.data["index"], "options": self.options})
            for p, r in zip(problems, responses, strict=True)
        ]
        return [as_grade(outcome) for outcome in shared_pool(self.reward_workers, self.reward_timeout_s).run(jobs)]

    @property
    def _options(self) -> Options:
        return tuple(sorted(self.options.items()))

    @cached_property
    def _held_out(self) -> frozenset[str]:
        return frozenset(problem.id for split in self.evaluation_splits() for problem in self.split(split))

    def _problem(self, index: int) -> Problem:
        entry = dataset(self.name, self._options)[index]
        question = str(entry["question"])
        return Problem(question, question + INSTRUCTION, str(entry["answer"]), {"index": index})

    def _not_held_out(self, index: int) -> Problem:
        """The entry with this index, or one far behind it if that is a held-out problem."""
        tries = (self._problem(index + attempt * 1_000_003) for attempt in range(ATTEMPTS))
        problem = next((p for p in tries if p.id not in self._held_out), None)
        if problem is None:
            raise UserError(
                f"task.name={self.name}: has too few different problems to keep training and evaluation apart; "
                "lower task.validation_problems and task.test_problems"
            )
        return problem
