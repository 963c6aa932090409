"""Supervised training of a small Qwen3 on prompts and responses: what the two warm starts share.

A warm start (carry.py, words.py) adds its recipe's own fields, a tokenizer, an endless stream of batches and what is
measured at the end. The folder written is an ordinary Hugging Face one, with `recipe.json` beside the weights: the
command, the settings, their hash and the weights'.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import track
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from harness.models.decoder import SharedPrefixPolicy
from harness.models.digest import weights_sha256
from harness.models.sequences import SequenceBatch
from harness.rollout.torch_engine import pad_prompts

ASSETS = Path(__file__).parents[1] / "assets"
SHOWN_EVERY = 100  # steps, where no terminal shows a bar

Texts = Sequence[tuple[str, str]]  # prompts with the responses to learn
AnyRecipe = TypeVar("AnyRecipe", bound="Recipe")


@dataclass(frozen=True)
class Recipe:
    """Everything the model is a function of; a warm start adds what its texts are made with.

    seed: of the initial weights and the texts.
    steps: optimizer steps.
    batch: texts a step.
    lr: peak of the learning rate.
    warmup: steps until the peak, from which it falls as a cosine to 0.
    hidden_size: width of the model.
    intermediate_size: width of its feed-forward layers.
    layers: how many.
    heads: of attention, with keys and values of their own.
    head_dim: width of a head.
    max_positions: longest sequence, in tokens.
    """

    seed: int = 0
    steps: int = 1000
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 50
    hidden_size: int = 64
    intermediate_size: int = 192
    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    max_positions: int = 256

    def sha256(self) -> str:
        """Hash of every field."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


def arguments(defaults: AnyRecipe, out: str, program: str, words: list[str] | None) -> tuple[AnyRecipe, Path]:
    """Reads a command line on which each field of the recipe is an option.

    defaults: the recipe where no option is given.
    out: folder in harness/assets to write where there is no --out.
    program: the command, for --help.
    words: the command line, that of this process where None.
    Returns the recipe and the folder to write.
    """
    parser = argparse.ArgumentParser(prog=program, description="Trains the recipe's model and writes its folder.")
    parser.add_argument("--out", type=Path, default=ASSETS / out, help="folder to write")
    for name, default in dataclasses.asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(words))
    folder: Path = options.pop("out")
    return dataclasses.replace(defaults, **options), folder


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """A model with random weights.

    recipe: its shape and the seed of the weights.
    tokenizer: its vocabulary.
    """
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


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, batches: Iterable[Texts]
) -> Iterator[tuple[Qwen3ForCausalLM, float]]:
    """Trains a new model, one step an item.

    recipe: steps, learning rate and shape.
    tokenizer: its vocabulary.
    batches: the texts of each step.
    Yields the model and its loss (nats a response token) after every step.
    """
    model = new_model(recipe, tokenizer)
    policy = SharedPrefixPolicy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    for step, texts in enumerate(islice(batches, recipe.steps)):
        rate = min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate
        batch = _encoded(texts, tokenizer)
        loss = -policy.score(batch, 1.0).logp[batch.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield model, loss.item()


def trained(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, batches: Iterable[Texts]
) -> tuple[Qwen3ForCausalLM, float]:
    """Trains a new model to the end of its recipe and shows how far it is.

    recipe: steps, learning rate and shape.
    tokenizer: its vocabulary.
    batches: the texts of each step.
    Returns the model and its last loss (nats a response token).
    """
    torch.set_num_threads(1)
    terminal = sys.stderr.isatty()
    steps = track(train(recipe, tokenizer, batches), "warm start", total=recipe.steps, disable=not terminal)
    for step, (model, loss) in enumerate(steps, 1):  # noqa: B007  (the last one is what counts)
        if step % SHOWN_EVERY == 0 and not terminal:
            print(f"step {step}: loss {loss:.4f}", flush=True)
    return model, loss


def save(
    folder: Path,
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    program: str,
    **measured: Any,
) -> None:
    """Writes model, tokenizer and `recipe.json`.

    folder: where to.
    model: the model.
    tokenizer: the one it was trained with.
    recipe: how it was made.
    program: the command that makes it.
    measured: what else the file says about the model.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "command": program,
        "made_with": f"lagrange-rl {version('lagrange-rl')}",  # another release may draw other texts
        "recipe": dataclasses.asdict(recipe),
        "recipe_sha256": recipe.sha256(),
        "weights_sha256": weights_sha256(model.state_dict()),
        **measured,
    }
    (folder / "recipe.json").write_text(json.dumps(card, indent=2) + "\n")


def _encoded(texts: Texts, tokenizer: PreTrainedTokenizerBase) -> SequenceBatch:
    end = tokenizer.eos_token_id
    prompts, lengths = pad_prompts([tokenizer.encode(prompt) for prompt, _ in texts], "cpu")
    responses, widths = pad_prompts([[*tokenizer.encode(response), end] for _, response in texts], "cpu")
    mask = torch.arange(responses.shape[1]) < widths[:, None]
    return SequenceBatch(prompts, lengths, torch.arange(len(texts)), responses, mask)
