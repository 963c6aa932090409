"""Makes the base policy of `experiment=gsm8k_small`: `python -m harness.warmstart_words`.

A Qwen3-architecture model of two million parameters with a byte-level BPE tokenizer learns careless solutions of
the template problems (harness/tasks/word_problems.py), training part only: it knows the method, forgets carries
and borrows, and so mostly gets the answer wrong. A toy, made to run the whole way from files to a curve.
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
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from harness import randomness
from harness.models.decoder import SharedPrefixPolicy
from harness.models.sequences import SequenceBatch
from harness.rollout.torch_engine import pad_prompts
from harness.tasks.word_problems import split, stream
from harness.warmstart import weights_sha256

PROMPT_END = "\n"  # between question and solution; conf/task/gsm8k_small.yaml says the same


@dataclass(frozen=True)
class Recipe:
    """Everything the model is a function of. careless: probability of forgetting a carry or borrow where there is
    one · slip: of being off by one where there is none."""

    seed: int = 0
    steps: int = 800
    batch: int = 64
    lr: float = 2e-3
    warmup: int = 50
    careless: float = 0.7
    slip: float = 0.05
    vocabulary: int = 640
    hidden_size: int = 192
    intermediate_size: int = 640
    layers: int = 4
    heads: int = 6
    head_dim: int = 32
    max_positions: int = 256

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


def bpe_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`; digits stay single tokens, so that sums can be learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[1], padding_side="left"
    )


def corpus_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    texts = [text for row in split("train") for text in row.values()]
    return bpe_tokenizer(texts, recipe.vocabulary)


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return Qwen3ForCausalLM(config)


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[SequenceBatch]:
    """Endless batches of fresh training problems with careless solutions; none is held-out."""
    problems = stream("word problem", recipe.seed, "train")
    end = tokenizer.eos_token_id
    for step, taken in enumerate(iter(lambda: list(islice(problems, recipe.batch)), [])):
        keys = randomness.keys(recipe.seed, "worked solution", step, torch.arange(recipe.batch).numpy())
        solutions = [p.careless_solution(key, recipe.careless, recipe.slip) for p, key in zip(taken, keys, strict=True)]
        prompts, lengths = pad_prompts([tokenizer.encode(p.question + PROMPT_END) for p in taken], "cpu")
        responses, widths = pad_prompts([[*tokenizer.encode(s), end] for s in solutions], "cpu")
        mask = torch.arange(responses.shape[1]) < widths[:, None]
        yield SequenceBatch(prompts, lengths, torch.arange(len(taken)), responses, mask)


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Qwen3ForCausalLM, float]]:
    """Yields the model and its loss (nats a response token) after every step."""
    model = new_model(recipe, tokenizer)
    policy = SharedPrefixPolicy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    for step, batch in enumerate(islice(batches(recipe, tokenizer), recipe.steps)):
        rate = min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate
        loss = -policy.score(batch, 1.0).logp[batch.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield model, loss.item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.warmstart_words", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models" / "gsm8k_small")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args(arguments))
    out: Path = options.pop("out")
    recipe = Recipe(**options)
    torch.set_num_threads(1)
    tokenizer = corpus_tokenizer(recipe)
    steps = track(train(recipe, tokenizer), "warm start", total=recipe.steps, disable=not sys.stderr.isatty())
    trained, loss = new_model(recipe, tokenizer), math.nan
    for step, (trained, loss) in enumerate(steps):  # noqa: B007  (the last one is what counts)
        if step % 50 == 49 and not sys.stderr.isatty():
            print(f"step {step + 1}: loss {loss:.4f}", flush=True)
    torch.nn.Module.to(trained, torch.bfloat16)
    trained.save_pretrained(out)  # bfloat16: half the file; it is loaded as float32
    tokenizer.save_pretrained(out)
    card = {
        "command": "python -m harness.warmstart_words",
        "recipe": dataclasses.asdict(recipe),
        "recipe_sha256": recipe.sha256(),
        "weights_sha256": weights_sha256(trained.state_dict()),
        "parameters": sum(p.numel() for p in trained.parameters()),
        "final_loss": loss,
    }
    (out / "recipe.json").write_text(json.dumps(card, indent=2) + "\n")
    print(f"{card['parameters']} parameters · loss {loss:.4f} nats a token · {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
