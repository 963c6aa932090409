"""Makes the embedded base policy: `python -m harness.warmstart`.

A 0.1 M-parameter Qwen3-architecture transformer learns worked solutions that forget the carry 60 % of the
time and slip 10 % of the time elsewhere. It ends up knowing the method and mostly getting the answer wrong,
as base models do. The recipe beside its weights says which accuracy the file was measured to have.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from transformers import Qwen3ForCausalLM

from harness import randomness
from harness.models.decoder import SharedPrefixPolicy
from harness.rollout.torch_engine import sampled
from harness.tasks.carry import Carry
from harness.types import Request
from harness.warmstart import supervised
from harness.warmstart.tokenizer import character_tokenizer

COMMAND = "python -m harness.warmstart"
CHARACTERS = "0123456789+=;"


@dataclass(frozen=True)
class Recipe(supervised.Recipe):
    """The task that the model learns badly, beside what every recipe has.

    terms: numbers to add.
    carry_noise: probability of forgetting a carry.
    slip_noise: probability of being off by one or two where there is no carry.
    """

    steps: int = 2000
    batch: int = 128
    terms: int = 6
    carry_noise: float = 0.6
    slip_noise: float = 0.1

    def task(self) -> Carry:
        """The task with these settings."""
        return Carry(terms=self.terms, carry_noise=self.carry_noise, slip_noise=self.slip_noise)


def batches(recipe: Recipe) -> Iterator[list[tuple[str, str]]]:
    """Endless batches of new training problems and their noisy solutions; no problem is a held-out one.

    recipe: batch size, seed and noise.
    """
    task = recipe.task()
    for step in count():
        indices = np.arange(step * recipe.batch, (step + 1) * recipe.batch)
        problems = task.train(recipe.seed, indices.tolist())
        noise = randomness.keys(recipe.seed, "worked solution", indices)
        yield [(p.prompt, task.worked_solution(p, key)) for p, key in zip(problems, noise, strict=True)]


def train(recipe: Recipe) -> Iterator[tuple[Qwen3ForCausalLM, float]]:
    """The model and its loss (nats a response token) after every step of the recipe."""
    return supervised.train(recipe, character_tokenizer(CHARACTERS), batches(recipe))


def sampled_accuracy(model: Qwen3ForCausalLM, recipe: Recipe, samples: int = 16) -> tuple[float, int]:
    """How often the model is right on the test split at temperature 1.

    model: the model.
    recipe: the task and the seed of the samples.
    samples: answers a problem.
    Returns the share of right answers and the number of answers.
    """
    tokenizer, task = character_tokenizer(CHARACTERS), recipe.task()
    problems = task.split("test")
    keys = randomness.keys(recipe.seed, "evaluation", np.arange(len(problems))[:, None], np.arange(samples))
    request = Request([tokenizer.encode(p.prompt) for p in problems], keys, 1.0, 24)
    rollouts = sampled(SharedPrefixPolicy(model), [tokenizer.eos_token_id], request)
    answers = tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
    grades = task.grade([problems[g] for g in rollouts.group.tolist()], answers)
    finished: list[bool] = rollouts.finished.tolist()
    right = [grade.correct and ended for grade, ended in zip(grades, finished, strict=True)]
    return sum(right) / len(right), len(right)


def main(arguments: list[str] | None = None) -> int:
    """Trains and writes the model; returns the exit status.

    arguments: of the command line, those of this process where None.
    """
    recipe, out = supervised.arguments(Recipe(), "carry", COMMAND, arguments)
    tokenizer = character_tokenizer(CHARACTERS)
    model, loss = supervised.trained(recipe, tokenizer, batches(recipe))
    accuracy, answers = sampled_accuracy(model, recipe)
    measured = {"test_sampled_accuracy": accuracy, "test_answers": answers, "accuracy_band": 0.02}
    supervised.save(out, model, tokenizer, recipe, COMMAND, final_loss=loss, **measured)
    print(f"loss {loss:.4f} nats a token · sampled accuracy {accuracy:.3f} of {answers} answers · {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
