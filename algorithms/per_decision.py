"""Per-decision importance sampling: each token weighed by the ratio of what led up to it."""

from dataclasses import dataclass
from typing import Literal

import torch

from algorithms.importance import Bounded, WeightedLikelihood
from algorithms.interface import TokenStats


@dataclass(frozen=True)
class PerDecision(WeightedLikelihood):
    """w_t = Π_{k≤t} r_k, or its geometric mean over the prefix (PNPO, arXiv 2608.01418, from its abstract).

    Differs from sequence-level TIS in that a token is not weighed by what came after it, and nothing is cut but by the
    clamp of the logarithm at ±20.
    reduction: "product", or "geometric_mean" over the tokens up to and including t.
    """

    reduction: Literal["product", "geometric_mean"] = "product"

    scope = "sequence"

    def bounded(self, stats: TokenStats) -> Bounded:
        log_prefix = stats.log_ratio64.cumsum(1)
        if self.reduction == "geometric_mean":
            log_prefix = log_prefix / stats.mask.cumsum(1).clamp(min=1)
        weight = stats.exp(log_prefix)
        return Bounded(weight, torch.ones_like(stats.mask), torch.zeros_like(stats.mask))
