"""Makes the base policy of `experiment=gsm8k_small`: `python -m harness.warmstart.words`.

A Qwen3-architecture model of two million parameters with a byte-level BPE tokenizer learns careless solutions of
the template problems (harness/tasks/word_problems.py), training part only: it knows the method, forgets carries
and borrows, and so mostly gets the answer wrong. A toy, made to run the whole way from files to a curve.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from harness import randomness
from harness.tasks.word_problems import split, stream
from harness.warmstart import supervised

COMMAND = "python -m harness.warmstart.words"
PROMPT_END = "\n"  # between question and solution; conf/task/gsm8k_small.yaml says the same


@dataclass(frozen=True)
class Recipe(supervised.Recipe):
    """How careless the solutions are, beside what every recipe has.

    careless: probability of forgetting a carry or borrow where there is one.
    slip: probability of being off by one where there is none.
    vocabulary: tokens of the tokenizer, at most.
    """

    steps: int = 800
    hidden_size: int = 192
    intermediate_size: int = 640
    layers: int = 4
    heads: int = 6
    careless: float = 0.7
    slip: float = 0.05
    vocabulary: int = 640


def bpe_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; digits stay single tokens, so that sums can be learned.

    texts: what it is trained on.
    vocabulary: tokens, at most.
    """
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
    """The tokenizer of the training split's questions and answers."""
    texts = [text for row in split("train") for text in row.values()]
    return bpe_tokenizer(texts, recipe.vocabulary)


def batches(recipe: Recipe) -> Iterator[list[tuple[str, str]]]:
    """Endless batches of new training problems and careless solutions; no problem is a held-out one.

    recipe: batch size, seed and carelessness.
    """
    problems = stream("word problem", recipe.seed, "train")
    for step in count():
        keys = randomness.keys(recipe.seed, "worked solution", step, np.arange(recipe.batch))
        yield [
            (problem.question + PROMPT_END, problem.careless_solution(key, recipe.careless, recipe.slip))
            for problem, key in zip(islice(problems, recipe.batch), keys, strict=True)
        ]


def main(arguments: list[str] | None = None) -> int:
    """Trains and writes the model; returns the exit status.

    arguments: of the command line, those of this process where None.
    """
    recipe, out = supervised.arguments(Recipe(), "gsm8k_small", COMMAND, arguments)
    tokenizer = corpus_tokenizer(recipe)
    model, loss = supervised.trained(recipe, tokenizer, batches(recipe))
    torch.nn.Module.to(model, torch.bfloat16)  # half the file; it is loaded as float32
    parameters = sum(p.numel() for p in model.parameters())
    supervised.save(out, model, tokenizer, recipe, COMMAND, parameters=parameters, final_loss=loss)
    print(f"{parameters} parameters · loss {loss:.4f} nats a token · {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
