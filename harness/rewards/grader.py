"""Responses → rewards: decoding, the task's verifier, and what a truncated response counts for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from harness.types import Grade, GradedRollouts, Grades, Problem, Rollouts


@dataclass(frozen=True)
class Grader:
    """truncated: "grade" a response without an end token as it is, give it "zero", or "mask" it out of the loss
    (its reward then is zero too, and still counts in its group's baseline)."""

    task: Grades
    tokenizer: PreTrainedTokenizerBase
    truncated: str

    def texts(self, rollouts: Rollouts) -> list[str]:
        return list(self.tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True))

    def grades(self, problems: Sequence[Problem], rollouts: Rollouts) -> tuple[list[Grade], list[str]]:
        """One grade and the text for each response; `problems` are the prompts of the rollouts, in order."""
        texts = self.texts(rollouts)
        grades = self.task.grade([problems[g] for g in rollouts.group.tolist()], texts)
        return grades, texts

    def __call__(self, problems: Sequence[Problem], rollouts: Rollouts) -> tuple[GradedRollouts, dict[str, float]]:
        """Graded rollouts, and metrics: truncated fraction and counted grader failures."""
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
        return GradedRollouts(rollouts, rewards, trained), metrics
