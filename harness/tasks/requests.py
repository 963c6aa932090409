"""Which problems a chunk asks, and the request that an engine answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness import randomness
from harness.config import Config
from harness.tasks.interface import Task
from harness.tasks.prompts import PromptEncoder
from harness.types import Problem, Request, part


@dataclass(frozen=True)
class Requests:
    """The training prompts of a run, cut into chunks. Chunk c is part c mod n of batch c div n, n = rollout.chunks.

    Problems are keyed by the order of submission, which under an exact lag is that of consumption: the same for every
    algorithm and staleness. So are the samples' random numbers.

    config: of the run.
    task: gives the problems.
    encode: problem → token ids.
    """

    config: Config
    task: Task
    encode: PromptEncoder

    def problems(self, chunk: int) -> list[Problem]:
        """The problems of a chunk."""
        batch, prompts = self._prompts(chunk)
        return self.task.train(self.config.seed, [self._index(batch, prompt) for prompt in prompts])

    def request(self, chunk: int) -> Request:
        """The prompts of a chunk, each to be answered `rollout.group_size` times."""
        batch, prompts = self._prompts(chunk)
        return self.of([(batch, prompt) for prompt in prompts])

    def of(self, places: Sequence[tuple[int, int]]) -> Request:
        """Prompts of any batches, each to be answered `rollout.group_size` times. places: (batch, number in it)."""
        rollout = self.config.rollout
        problems = self.task.train(self.config.seed, [self._index(*place) for place in places])
        batch, prompt = np.array(places).T
        samples = np.arange(rollout.group_size)
        keys = randomness.keys(self.config.seed, "sample", batch[:, None], prompt[:, None], samples)
        return Request(self.encode.all(problems), keys, rollout.temperature, rollout.max_new_tokens)

    def expected_lengths(self, batch: int) -> list[float]:
        """How long a response to each prompt of a batch is expected to be, in the task's unit."""
        prompts = range(self.config.rollout.prompts_per_step)
        problems = self.task.train(self.config.seed, [self._index(batch, prompt) for prompt in prompts])
        return [self.task.expected_length(problem) for problem in problems]  # type: ignore[attr-defined]

    def fresh(self, problems: list[Problem], version: int, half: int) -> Request:
        """Problems asked once more, with random numbers of their own (record.fidelity).

        problems: to ask. version: of the policy that answers. half: 0 or 1, which of two sets of answers.
        """
        rollout = self.config.rollout
        samples = np.arange(rollout.group_size)
        keys = randomness.keys(self.config.seed, "fidelity", version, half, np.arange(len(problems))[:, None], samples)
        return Request(self.encode.all(problems), keys, rollout.temperature, rollout.max_new_tokens)

    def _index(self, batch: int, prompt: int) -> int:
        """The consumption index of a prompt."""
        return batch * self.config.rollout.prompts_per_step + prompt

    def _prompts(self, chunk: int) -> tuple[int, range]:
        """The batch a chunk is numbered in, and which of the batch's prompts are its own."""
        rollout = self.config.rollout
        batch, index = divmod(chunk, rollout.chunks)
        return batch, part(rollout.prompts_per_step, rollout.chunks, index)
