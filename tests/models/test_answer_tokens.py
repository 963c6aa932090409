"""What of a response is graded: a model's own special tokens are, those that every tokenizer has are not."""

from __future__ import annotations

import torch

from harness.rewards.grader import Grader
from harness.tasks.bandit import Bandit
from harness.types import Rollouts
from tests.tiny import tokenizer


def test_answer_tags_that_are_special_tokens_are_graded() -> None:
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<answer>", "</answer>", "<|im_end|>"]})
    end = words.convert_tokens_to_ids("<|im_end|>")
    texts = ["<answer>12</answer>", "<pad>12", "cut"]
    ids = [[*words.encode(texts[0]), end], [*words.encode(texts[1]), words.eos_token_id], words.encode(texts[2])]
    lengths = torch.tensor([len(row) for row in ids])
    flat = torch.tensor([token for row in ids for token in row], dtype=torch.int32)
    zeros, one = torch.zeros(len(flat)), torch.ones(1, dtype=torch.int32)
    finished = torch.tensor([True, True, False])
    rollouts = Rollouts(one, one, torch.zeros(3, dtype=torch.int32), flat, lengths, zeros, zeros, zeros.int(), finished)
    _, read = Grader(Bandit(), words, "grade").grades(Bandit().train(1, [0]), rollouts)
    assert read == ["<answer>12</answer>", "12", "cut"]
