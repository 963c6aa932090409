"""TOPR: likelihood on good sequences, a sequence ratio truncated at 1 on bad ones."""

from dataclasses import dataclass

import torch

from algorithms.importance import Bounded, WeightedLikelihood
from algorithms.interface import TokenStats


@dataclass(frozen=True)
class TOPR(WeightedLikelihood):
    """w = 1 where A ≥ 0, else clip(Π r, 0, 1) over the sequence (Tapered Off-Policy REINFORCE, arXiv 2503.14286).

    Differs from GRPO in that good sequences are imitated whatever their age, and bad ones fade as they become
    unlikely. The gradient is that of the whole sequence's log π, about its length times larger than a token
    mean's: watch the clipped gradient norm. Only A<0 with Π r > 1 counts as changed by the rule.
    """

    scope = "sequence"
    published_aggregation = "seq_mean_token_sum"

    def bounded(self, stats: TokenStats) -> Bounded:
        negative = stats.sequence_advantage("topr") < 0
        product = stats.exp(stats.sequence_log_ratio("sum"))
        weight = torch.where(negative, product.clamp(max=1.0), 1.0)
        return Bounded(weight, torch.ones_like(negative), negative & (product > 1))
