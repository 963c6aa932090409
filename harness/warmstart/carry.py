"""Makes the embedded base policies: `python -m harness.warmstart`, `python -m harness.warmstart carry_long --seed 1`.

A 0.1 M-parameter Qwen3-architecture transformer learns worked solutions that forget the carry 60 % of the
time and slip 10 % of the time elsewhere. It ends up knowing the method and mostly getting the answer wrong,
as base models do. The recipe beside its weights says which properties the file was measured to have; those that
the siblings were calibrated on are in docs/study/tasks.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

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
SAMPLES = 64  # answers a test problem that a card's properties are measured on


@dataclass(frozen=True)
class Recipe(supervised.Recipe):
    """The task that the model learns badly, beside what every recipe has.

    terms: numbers to add, at most.
    fewest_terms: numbers to add, at least.
    carry_noise: probability of forgetting a carry.
    slip_noise: probability of being off by one or two where there is no carry.
    tokens: longest answer, where the properties on the card are measured.
    """

    steps: int = 2000
    batch: int = 128
    terms: int = 6
    fewest_terms: int = 6
    carry_noise: float = 0.6
    slip_noise: float = 0.1
    tokens: int = 24

    def task(self) -> Carry:
        """The task with these settings."""
        return Carry(
            terms=self.terms,
            fewest_terms=self.fewest_terms,
            carry_noise=self.carry_noise,
            slip_noise=self.slip_noise,
        )


# conf/task has the same numbers; carry_noisy differs from carry in its rewards, not in its base policy.
RECIPES = {
    "carry": Recipe(),
    "carry_long": Recipe(steps=3000, batch=64, terms=20, fewest_terms=4, carry_noise=0.45, slip_noise=0.05, tokens=72),
    "carry_noisy": Recipe(),
    "carry_rare": Recipe(carry_noise=0.9),
}


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


def answers(model: Qwen3ForCausalLM, recipe: Recipe, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """What the model answers to the test split at temperature 1.

    model: the model.
    recipe: the task and the seed of the samples.
    samples: answers a problem.
    Returns which are right, bool [problems, samples], and their lengths in tokens, int of the same shape.
    """
    tokenizer, task = character_tokenizer(CHARACTERS), recipe.task()
    problems = task.split("test")
    keys = randomness.keys(recipe.seed, "evaluation", np.arange(len(problems))[:, None], np.arange(samples))
    request = Request([tokenizer.encode(p.prompt) for p in problems], keys, 1.0, recipe.tokens)
    rollouts = sampled(SharedPrefixPolicy(model), [tokenizer.eos_token_id], request)
    texts = tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
    grades = task.grade([problems[g] for g in rollouts.group.tolist()], texts)
    right = np.array([grade.correct for grade in grades]) & rollouts.finished.numpy()
    return right.reshape(-1, samples), rollouts.response_lengths.numpy().reshape(-1, samples)


def sampled_accuracy(model: Qwen3ForCausalLM, recipe: Recipe, samples: int = 16) -> tuple[float, int]:
    """The share of right answers to the test split at temperature 1, and the number of answers."""
    right, _ = answers(model, recipe, samples)
    return float(right.mean()), right.size


def properties(model: Qwen3ForCausalLM, recipe: Recipe) -> dict[str, Any]:
    """What a sibling of carry is calibrated on: how often and how variously its base policy is right, and how long.

    model, recipe: as for `answers`.
    Returns accuracy, pass@64, the share of groups of 8 whose rewards are all equal, and the 0, 10, 50, 90 and 100 %
    points of response lengths (tokens).
    """
    right, lengths = answers(model, recipe, SAMPLES)
    groups = right.reshape(-1, 8).sum(1)
    return {
        "test_sampled_accuracy": float(right.mean()),
        "test_answers": right.size,
        "accuracy_band": min(0.02, float(right.mean()) / 2),
        f"test_pass_at_{SAMPLES}": float(right.any(1).mean()),
        "test_equal_groups_of_8": float(np.isin(groups, (0, 8)).mean()),
        "test_length_percentiles": np.percentile(lengths, [0, 10, 50, 90, 100]).tolist(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Trains and writes a model; returns the exit status.

    arguments: of the command line, those of this process where None: the task's name first where it is not carry.
    """
    words = sys.argv[1:] if arguments is None else arguments
    named = bool(words) and not words[0].startswith("-")
    name, options = (words[0], words[1:]) if named else ("carry", words)
    if name not in RECIPES:
        raise SystemExit(f"harness.warmstart {name}: no such base policy; there are {', '.join(RECIPES)}")
    recipe, out = supervised.arguments(RECIPES[name], name, COMMAND, options)
    tokenizer = character_tokenizer(CHARACTERS)
    model, loss = supervised.trained(recipe, tokenizer, batches(recipe))
    measured = properties(model, recipe)
    command = " ".join([COMMAND, *words])
    supervised.save(out, model, tokenizer, recipe, command, final_loss=loss, **measured)
    print(f"loss {loss:.4f} nats a token · {out}")
    print(", ".join(f"{key} {value}" for key, value in measured.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
