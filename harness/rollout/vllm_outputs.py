"""What vLLM's outputs say of the tokens that it sampled or scored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Sample:
    """One sequence being sampled: its tokens so far, their log-probs, and the versions that sampled them."""

    tokens: list[int] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    ended: bool = False

    def append(self, output: Any, version: int) -> None:
        """Takes what an output brings. version: that sampled it."""
        completion = output.outputs[0]
        tokens = list(completion.token_ids)
        self.tokens += tokens
        reported = completion.logprobs
        self.logp += (
            [math.nan] * len(tokens)
            if reported is None
            else [entry[token].logprob for entry, token in zip(reported, tokens, strict=True)]
        )
        self.versions += [version] * len(tokens)
        self.ended = output.finished


def own_logp(output: Any) -> list[float]:
    """Log-prob of each token of `output.prompt_token_ids` but the first."""
    pairs = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return [entry[token].logprob for token, entry in pairs]
