"""`task=carry`: a running sum answered step by step, made from nothing and verified exactly.

`27+8+5+9+3+6=` is answered `35;40;49;52;58`. The reward is 1 if the last number is the sum, else 0. The
problem space is cut into three parts by a hash of the prompt, so training, validation and test problems
cannot overlap whatever the settings.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness import randomness
from harness.errors import UserError
from harness.types import Grade, Problem

PARTS = 10  # by hash of the prompt; two of them are held out
VALIDATION, TEST, TRAINING = 0, 1, range(2, PARTS)


@dataclass(frozen=True)
class Carry:
    """terms: numbers to add, the first with two digits, the others with one.
    validation_problems, test_problems: sizes of the held-out splits.
    carry_noise, slip_noise: in the worked solutions of the warm start, the probability of forgetting the
    carry where there is one, and of slipping by one or two where there is none."""

    terms: int = 6
    validation_problems: int = 128
    test_problems: int = 256
    carry_noise: float = 0.6
    slip_noise: float = 0.1

    def __post_init__(self) -> None:
        if not 2 <= self.terms <= 20:
            raise UserError(f"task.terms={self.terms}: expected 2 to 20 numbers to add; choose one of those")
        for name in ("validation_problems", "test_problems"):
            if getattr(self, name) < 1:
                raise UserError(f"task.{name}={getattr(self, name)}: expected at least 1 problem; raise it")
        for name in ("carry_noise", "slip_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"task.{name}={getattr(self, name)}: expected a probability from 0 to 1")

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        return self._draw(seed, "problem", indices, TRAINING)

    def split(self, name: str) -> list[Problem]:
        """The split's first problems in a fixed order; it does not depend on the run's seed."""
        part = {"validation": VALIDATION, "test": TEST}[name]
        count = {"validation": self.validation_problems, "test": self.test_problems}[name]
        found: dict[str, Problem] = {}
        start = 0
        while len(found) < count:
            for problem in self._draw(0, f"carry {name}", range(start, start + count), (part,)):
                found.setdefault(problem.id, problem)
            start += count
        return list(found.values())[:count]

    def evaluation_splits(self) -> list[str]:
        return ["validation", "test"]

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        right = [
            response.rsplit(";", 1)[-1] == problem.answer for problem, response in zip(problems, responses, strict=True)
        ]
        return [Grade(float(correct), correct) for correct in right]

    def _draw(self, seed: int, purpose: str, indices: Sequence[int], parts: Sequence[int]) -> list[Problem]:
        """For each index the first problem of its stream that lies in one of the wanted parts."""
        found: dict[int, Problem] = {}
        attempt = 0
        while missing := [i for i in indices if i not in found]:
            key = randomness.keys(seed, purpose, np.array(missing), attempt)
            first = randomness.integers(key, 10, 60, 1)
            rest = randomness.integers(key + np.uint64(1), 1, 10, self.terms - 1)
            for i, numbers in zip(missing, np.concatenate((first, rest), axis=1).tolist(), strict=True):
                prompt = "+".join(map(str, numbers)) + "="
                if zlib.crc32(prompt.encode()) % PARTS in parts:
                    found[i] = Problem(prompt, prompt, str(sum(numbers)), {"numbers": numbers})
            attempt += 1
        return [found[i] for i in indices]

    def worked_solution(self, problem: Problem, key: np.ndarray) -> str:
        """A solution as a careless student writes it: forgets the carry, slips by one or two."""
        numbers = problem.data["numbers"]
        draws = randomness.uniforms(key, 2 * len(numbers))
        total, steps = numbers[0], []
        for i, term in enumerate(numbers[1:]):
            carries = total % 10 + term >= 10
            wrong = draws[2 * i] < (self.carry_noise if carries else self.slip_noise)
            total += term
            if wrong:
                total += -10 if carries else (-2, -1, 1, 2)[int(draws[2 * i + 1] * 4)]
            steps.append(str(total))
        return ";".join(steps)
