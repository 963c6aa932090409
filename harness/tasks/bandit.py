"""`task=bandit`: arms with fixed rewards and nothing to read in the prompt, a problem with answers in closed form.

`37=` is answered by the number of an arm, `0` to `19`. tests/tasks/test_bandit.py has the theorem of arXiv 2506.20520.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness import randomness
from harness.errors import require
from harness.tasks.generated import GeneratedTask, split_of
from harness.types import Grade, Problem

PROMPTS = 10_000  # different ones; they mean nothing


@dataclass(frozen=True)
class Bandit(GeneratedTask):
    """Whatever the prompt, the reward of an arm's number is that arm's, from 0 to 1; of anything else 0.

    arms: how many there are.
    arm_seed: of their rewards.
    """

    max_new_tokens: ClassVar[int] = 24

    arms: int = 20
    arm_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.arms <= 1000, "task.arms", self.arms, "2 to 1000 arms")

    @property
    def rewards(self) -> np.ndarray:
        """Reward of every arm, [arms] float64 in [0, 1)."""
        return randomness.uniforms(randomness.keys(self.arm_seed, "bandit arms"), self.arms)

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """The training problems with these consumption indices."""
        return self._draw(seed, "bandit prompt", indices, "train")

    def split(self, name: str) -> list[Problem]:
        """All problems of a held-out split; they do not depend on the run's seed."""
        return self.fill(name, (p for p in map(self._problem, range(PROMPTS)) if split_of(p.prompt) == name))

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """The reward of the arm that each response names; the best arm is the right answer."""
        by_name = {str(arm): reward for arm, reward in enumerate(self.rewards.tolist())}
        best = max(by_name.values())
        return [Grade(reward, reward == best) for reward in (by_name.get(response, 0.0) for response in responses)]

    def _problem(self, number: int) -> Problem:
        return Problem(f"{number}=", f"{number}=", str(int(self.rewards.argmax())))

    def _draw(self, seed: int, purpose: str, indices: Sequence[int], split: str) -> list[Problem]:
        """For each index the first prompt of its stream that belongs to the split."""
        drawn = []
        for index in indices:
            key = randomness.keys(seed, purpose, index)
            numbers = randomness.integers(key, 0, PROMPTS, 200).tolist()
            drawn.append(next(p for p in map(self._problem, numbers) if split_of(p.prompt) == split))
        return drawn
