"""Responses → rewards: decoding, the task's verifier, and what a truncated response counts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from transformers import PreTrainedTokenizerBase

from harness.types import Grade, GradedRollouts, Grades, Problem, Rollouts

USUAL = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")  # special tokens that are no part of a text


@dataclass(frozen=True)
class Grader:
    """Grades rollouts as a task does.

    task: what grades texts.
    tokenizer: turns responses into texts.
    truncated: "grade" a response without an end token as it is, give it "zero", or "mask" it out of the loss (its
        reward then is zero too, and still counts in its group's baseline).
    """

    task: Grades
    tokenizer: PreTrainedTokenizerBase
    truncated: str

    def grades(self, problems: Sequence[Problem], rollouts: Rollouts) -> tuple[list[Grade], list[str]]:
        """The grade and the text of every response.

        problems: the prompts of the rollouts, in order.
        rollouts: G prompts with B responses.
        Returns B grades and B texts, without the token that ended a response and without padding and the like; special
        tokens that a model has of its own, such as <answer>, are a part of the answer.
        """
        texts: list[str] = self.tokenizer.batch_decode(self._contents(rollouts))
        return self.task.grade([problems[g] for g in rollouts.group.tolist()], texts), texts

    def _contents(self, rollouts: Rollouts) -> list[list[int]]:
        """Token ids of every response but those that every tokenizer has for its own use."""
        usual = {getattr(self.tokenizer, f"{name}_token_id") for name in USUAL}
        pairs = zip(rollouts.responses(), rollouts.finished.tolist(), strict=True)
        return [[token for token in ids[: len(ids) - ended] if token not in usual] for ids, ended in pairs]

    def __call__(self, problems: Sequence[Problem], rollouts: Rollouts) -> tuple[GradedRollouts, dict[str, float]]:
        """Rollouts with their rewards.

        problems: the prompts of the rollouts, in order.
        rollouts: G prompts with B responses.
        Returns the graded rollouts, and the metrics truncated_fraction, grader_failures (a count) and the mean of each
        part of the rewards (reward/NAME, over the responses that have it).
        """
        grades, _ = self.grades(problems, rollouts)
        rewards = torch.tensor([grade.reward for grade in grades], dtype=torch.float64)
        trained = torch.ones_like(rollouts.finished)
        if self.truncated != "grade":
            rewards = rewards * rollouts.finished
        if self.truncated == "mask":
            trained = rollouts.finished
        metrics = {
            "truncated_fraction": 1 - rollouts.finished.double().mean().item(),
            "grader_failures": float(sum(bool(grade.failure) for grade in grades)),
        }
        return GradedRollouts(rollouts, rewards, trained), metrics | part_means(grades)


def part_means(grades: Sequence[Grade]) -> dict[str, float]:
    """The mean of each named part of the rewards, as reward/NAME, over the responses that have it."""
    names = dict.fromkeys(name for grade in grades for name in grade.parts)
    return {f"reward/{name}": fmean(g.parts[name] for g in grades if name in g.parts) for name in names}
