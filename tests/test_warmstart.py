"""The base policy in the repository and the recipe beside it belong together."""

import json
from itertools import islice
from pathlib import Path

from transformers import AutoModelForCausalLM

from harness.models.digest import weights_sha256
from harness.warmstart import carry

FOLDER = Path(carry.__file__).parents[1] / "assets" / "carry"
CARD = json.loads((FOLDER / "recipe.json").read_text())


def test_the_recipe_in_the_code_is_the_recipe_of_the_file():
    assert carry.Recipe(**CARD["recipe"]).sha256() == CARD["recipe_sha256"] == carry.Recipe().sha256()


def test_the_file_is_the_one_the_card_describes():
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    assert weights_sha256(model.state_dict()) == CARD["weights_sha256"]
    assert (FOLDER / "model.safetensors").stat().st_size < 1_000_000
    accuracy, answers = carry.sampled_accuracy(model, carry.Recipe())
    assert answers == CARD["test_answers"]
    assert abs(accuracy - CARD["test_sampled_accuracy"]) <= CARD["accuracy_band"]


def test_a_short_run_of_the_recipe_reduces_the_loss_to_the_same_bits_twice():
    def short() -> tuple[list[float], str]:
        steps = list(islice(carry.train(carry.Recipe(batch=32)), 12))
        return [loss for _, loss in steps], weights_sha256(steps[-1][0].state_dict())

    (losses, weights), again = short(), short()
    assert (losses, weights) == again
    assert losses[-1] < 0.9 * losses[0]
