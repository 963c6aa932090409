"""Makes the embedded base policy: `python -m harness.warmstart`.

A 0.1 M-parameter Qwen3-architecture transformer learns worked solutions that forget the carry 60 % of the
time and slip 10 % of the time elsewhere. It ends up knowing the method and mostly getting the answer wrong,
as base models do. The folder it writes is an ordinary Hugging Face one, with `recipe.json` beside the
weights: the settings, their hash, and the accuracy the file was measured to have.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from harness import randomness
from harness.models.decoder import SharedPrefixPolicy
from harness.models.sequences import SequenceBatch
from harness.models.tokenizer import character_tokenizer
from harness.rollout.interface import Request
from harness.rollout.torch_engine import TorchEngine, pad_prompts
from harness.tasks.carry import Carry

CHARACTERS = "0123456789+=;"


@dataclass(frozen=True)
class Recipe:
    """Everything the base policy is a function of."""

    seed: int = 0
    steps: int = 2000
    batch: int = 128
    lr: float = 2e-3
    warmup: int = 50
    terms: int = 6
    carry_noise: float = 0.6
    slip_noise: float = 0.1
    hidden_size: int = 64
    intermediate_size: int = 192
    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    max_positions: int = 256

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()

    def task(self) -> Carry:
        return Carry(terms=self.terms, carry_noise=self.carry_noise, slip_noise=self.slip_noise)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    # The initial weights are a function of the recipe's seed; the caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Qwen3ForCausalLM(config)


def batch_of_solutions(recipe: Recipe, step: int, tokenizer: PreTrainedTokenizerBase) -> SequenceBatch:
    """Fresh training problems with their noisy solutions; no problem is held-out."""
    task = recipe.task()
    indices = range(step * recipe.batch, (step + 1) * recipe.batch)
    problems = task.train(recipe.seed, indices)
    noise = randomness.keys(recipe.seed, "worked solution", torch.tensor(indices).numpy())
    solutions = [task.worked_solution(problem, key) for problem, key in zip(problems, noise, strict=True)]
    end = tokenizer.eos_token_id
    prompts, lengths = pad_prompts([tokenizer.encode(p.prompt) for p in problems], "cpu")
    responses, widths = pad_prompts([[*tokenizer.encode(s), end] for s in solutions], "cpu")
    mask = torch.arange(responses.shape[1]) < widths[:, None]
    return SequenceBatch(prompts, lengths, torch.arange(len(problems)), responses, mask)


def train(recipe: Recipe, steps: int | None = None) -> Iterator[tuple[Qwen3ForCausalLM, float]]:
    """Yields the model and its loss (nats a token) after every step of the recipe."""
    tokenizer = character_tokenizer(CHARACTERS)
    model = new_model(recipe, tokenizer)
    policy = SharedPrefixPolicy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    for step in range(recipe.steps if steps is None else steps):
        rate = min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate
        batch = batch_of_solutions(recipe, step, tokenizer)
        loss = -policy.score(batch, 1.0).logp[batch.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield model, loss.item()


def sampled_accuracy(model: Qwen3ForCausalLM, recipe: Recipe, samples: int = 16) -> tuple[float, int]:
    """Share of right answers on the test split at temperature 1, and the number of answers behind it."""
    tokenizer, task = character_tokenizer(CHARACTERS), recipe.task()
    problems = task.split("test")
    keys = randomness.keys(
        recipe.seed, "evaluation", torch.arange(len(problems)).numpy()[:, None], torch.arange(samples).numpy()
    )
    request = Request([tokenizer.encode(p.prompt) for p in problems], keys, 1.0, 24)
    engine = TorchEngine(SharedPrefixPolicy(model), tokenizer.eos_token_id, trainer_logp=False)
    rollouts = engine.generate(request)
    answers = tokenizer.batch_decode(rollouts.responses(), skip_special_tokens=True)
    asked = [problems[g] for g in rollouts.group.tolist()]
    finished: list[bool] = rollouts.finished.tolist()
    right = [grade.correct and done for grade, done in zip(task.grade(asked, answers), finished, strict=True)]
    return sum(right) / len(right), len(right)


def weights_sha256(state: dict[str, Tensor]) -> str:
    """Hash over the sorted state dict: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.warmstart", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models" / "carry")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args(arguments))
    out: Path = options.pop("out")
    recipe = Recipe(**options)
    torch.set_num_threads(1)
    loss, model = math.nan, None
    steps = track(train(recipe), "warm start", total=recipe.steps, disable=not sys.stderr.isatty())
    for model, loss in steps:  # noqa: B007  (the last pair is what counts)
        pass
    assert model is not None
    accuracy, answers = sampled_accuracy(model, recipe)
    model.save_pretrained(out)
    character_tokenizer(CHARACTERS).save_pretrained(out)
    card = {
        "command": "python -m harness.warmstart",
        "recipe": dataclasses.asdict(recipe),
        "recipe_sha256": recipe.sha256(),
        "weights_sha256": weights_sha256(model.state_dict()),
        "final_loss": loss,
        "test_sampled_accuracy": accuracy,
        "test_answers": answers,
        "accuracy_band": 0.02,
    }
    (out / "recipe.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"loss {loss:.4f} nats a token · sampled accuracy {accuracy:.3f} of {answers} answers · {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
