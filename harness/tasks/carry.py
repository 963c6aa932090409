"""`task=carry`: a running sum answered step by step, made from nothing and verified exactly.

`27+8+5+9+3+6=` is answered `35;40;49;52;58`. The reward is 1 if the last number is the sum, else 0. Sums of mixed
lengths and rewards that are wrong now and then make its siblings carry_long and carry_noisy.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness import randomness
from harness.errors import require
from harness.tasks.generated import CANDIDATES, GeneratedTask, split_of
from harness.types import Grade, Problem


@dataclass(frozen=True)
class Carry(GeneratedTask):
    """A sum of numbers, answered by its running totals.

    terms: numbers to add, the first with two digits, the others with one.
    fewest_terms: where sums are of mixed length, numbers to add at least; every length is as likely as another.
    reward_noise: probability that a response is trained on with the opposite reward; accuracies never see it.
    carry_noise: in the worked solutions of the warm start, the probability of forgetting the carry where there is one.
    slip_noise: in the same solutions, the probability of being off by one or two where there is no carry.
    """

    terms: int = 6
    fewest_terms: int | None = None
    reward_noise: float = 0.0
    carry_noise: float = 0.6
    slip_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.terms <= 20, "task.terms", self.terms, "2 to 20 numbers to add")
        fewest = self.fewest_terms
        require(fewest is None or 2 <= fewest <= self.terms, "task.fewest_terms", fewest, "null, or 2 to task.terms")
        for name in ("reward_noise", "carry_noise", "slip_noise"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"task.{name}", value, "a probability from 0 to 1")

    @property
    def max_new_tokens(self) -> int:
        """Room for every running total, of up to three digits, and what follows it."""
        return max(24, 4 * self.terms)

    @property
    def longest_prompt(self) -> int:
        """Characters of the longest sum: two digits, a digit for every other number, a sign after each."""
        return 2 * self.terms + 1

    def expected_length(self, problem: Problem) -> float:
        """How long a response is expected to be: its running totals."""
        return len(problem.data["numbers"]) - 1

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """The training problems with these consumption indices."""
        return self._draw(seed, "problem", indices, "train")

    def split(self, name: str) -> list[Problem]:
        """All problems of a held-out split; they do not depend on the run's seed."""
        count = self.size(name)
        starts = range(0, CANDIDATES * count, count)
        batches = (self._draw(0, f"carry {name}", range(start, start + count), name) for start in starts)
        return self.fill(name, (problem for batch in batches for problem in batch))

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each response: right if what follows its last semicolon is the sum."""
        right = [
            response.rsplit(";", 1)[-1] == problem.answer for problem, response in zip(problems, responses, strict=True)
        ]
        flipped = self._flipped(problems)
        return [Grade(float(correct != wrong), correct) for correct, wrong in zip(right, flipped, strict=True)]

    def _flipped(self, problems: Sequence[Problem]) -> list[bool]:
        """Which responses earn the opposite reward: a function of the problem and of which of its responses it is."""
        if self.reward_noise == 0:
            return [False] * len(problems)
        earlier = Counter[str]()
        draws = []
        for problem in problems:
            key = randomness.keys(zlib.crc32(problem.id.encode()), "reward noise", earlier[problem.id])
            draws.append(randomness.uniforms(key, 1)[0])
            earlier[problem.id] += 1
        return [draw < self.reward_noise for draw in draws]

    def worked_solution(self, problem: Problem, key: np.ndarray) -> str:
        """A solution as a careless student writes it.

        problem: one of this task.
        key: uint64, 0-d, the randomness of its errors.
        Returns the running totals, some of them wrong; what follows an error goes on from there.
        """
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

    def _draw(self, seed: int, purpose: str, indices: Sequence[int], split: str) -> list[Problem]:
        """For each index the first problem of its stream that belongs to the split."""
        drawn: dict[int, Problem] = {}
        attempt = 0
        while missing := [i for i in indices if i not in drawn]:
            key = randomness.keys(seed, purpose, np.array(missing), attempt)
            first = randomness.integers(key, 10, 60, 1)
            rest = randomness.integers(key + np.uint64(1), 1, 10, self.terms - 1)
            counts = randomness.integers(key + np.uint64(2), self.fewest_terms or self.terms, self.terms + 1, 1)
            rows = np.concatenate((first, rest), axis=1).tolist()
            for i, row, count in zip(missing, rows, counts[:, 0].tolist(), strict=True):
                numbers = row[:count]
                prompt = "+".join(map(str, numbers)) + "="
                if split_of(prompt) == split:
                    drawn[i] = Problem(prompt, prompt, str(sum(numbers)), {"numbers": numbers})
            attempt += 1
        return [drawn[i] for i in indices]
