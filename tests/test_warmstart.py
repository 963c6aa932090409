"""The base policy in the repository and the recipe beside it belong together."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from harness import build
from harness.command.plan import plan
from harness.models.digest import weights_sha256
from harness.warmstart import carry

ASSETS = Path(carry.__file__).parents[1] / "assets"
FOLDERS = {
    "carry": "carry",
    **{f"{task}/{n}": task for task in ("carry_long", "carry_noisy", "carry_rare") for n in range(3)},
}


def card(folder: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ASSETS / folder / "recipe.json").read_text())
    return read


@pytest.mark.parametrize(("folder", "task"), FOLDERS.items())
def test_the_recipe_in_the_code_is_the_recipe_of_the_file(folder: str, task: str) -> None:
    seed = int(folder[-1]) if "/" in folder else 0
    recipe = replace(carry.RECIPES[task], seed=seed)
    assert carry.Recipe(**card(folder)["recipe"]).sha256() == card(folder)["recipe_sha256"] == recipe.sha256()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_file_is_the_one_the_card_describes(folder: str) -> None:
    written = card(folder)
    model = AutoModelForCausalLM.from_pretrained(ASSETS / folder)
    assert weights_sha256(model.state_dict()) == written["weights_sha256"]
    assert (ASSETS / folder / "model.safetensors").stat().st_size < 1_000_000
    accuracy, _ = carry.sampled_accuracy(model, carry.Recipe(**written["recipe"]))
    assert abs(accuracy - written["test_sampled_accuracy"]) <= written["accuracy_band"]


@pytest.mark.parametrize("task", ["carry_long", "carry_noisy", "carry_rare"])
def test_the_seed_chooses_the_base_policy_and_the_task_is_the_recipes(task: str) -> None:
    cells = plan([f"experiment={task}", "seed=4", "tracking=none"]).cells
    assert cells[0].model.path == f"harness/assets/{task}/1"
    recipe = carry.RECIPES[task]
    made = build.task(cells[0])
    assert (made.terms, made.fewest_terms or made.terms) == (recipe.terms, recipe.fewest_terms)
    assert (made.carry_noise, made.slip_noise) == (recipe.carry_noise, recipe.slip_noise)
    assert cells[0].rollout.max_new_tokens == recipe.tokens


def test_a_short_run_of_the_recipe_reduces_the_loss_to_the_same_bits_twice():
    def short() -> tuple[list[float], str]:
        steps = list(islice(carry.train(carry.Recipe(batch=32)), 12))
        return [loss for _, loss in steps], weights_sha256(steps[-1][0].state_dict())

    (losses, weights), again = short(), short()
    assert (losses, weights) == again
    assert losses[-1] < 0.9 * losses[0]
