"""TOPR: likelihood on good sequences, a sequence ratio truncated at 1 on bad ones."""

from dataclasses import dataclass
from typing import Literal

import torch

from algorithms.importance import Bounded, WeightedLikelihood, importance_ratio
from algorithms.interface import TokenStats


@dataclass(frozen=True)
class TOPR(WeightedLikelihood):
    """w = 1 where A ≥ 0, else clip(Π r, 0, 1) over the sequence (Tapered Off-Policy REINFORCE, arXiv 2503.14286).

    Differs from GRPO in that good sequences are imitated whatever their age, and bad ones fade as they become
    unlikely. The gradient is that of the whole sequence's log π, about its length times larger than a token
    mean's: watch the clipped gradient norm. Only A<0 with a ratio above 1 counts as changed by the rule.
    level: whether the ratio of the bad ones is the sequence's (the paper) or each token's own (ROLL, Trinity).
    """

    level: Literal["sequence", "token"] = "sequence"

    published_aggregation = "seq_mean_token_sum"

    @property
    def scope(self) -> str:
        return self.level

    def bounded(self, stats: TokenStats) -> Bounded:
        ratio = importance_ratio(stats, self.level, "topr")
        negative = stats.advantage < 0
        weight = torch.where(negative, ratio.clamp(max=1.0), 1.0)
        return Bounded(weight, torch.ones_like(weight, dtype=torch.bool), negative & (ratio > 1))
