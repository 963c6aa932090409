"""Importance ratios and the two ways to bound them, for methods that correct for a second policy."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, weigh

Bound = Literal["truncate", "band"]


class Bounded(NamedTuple):
    """A bounded ratio, [B,T] or [B,1] each.

    weight: the ratio after the bound, 0 where it is masked. kept: bool, where it is not masked.
    changed: bool, where the bound set it, masked included.
    """

    weight: Tensor
    kept: Tensor
    changed: Tensor


def bound(ratio: Tensor, how: Bound, low: float, high: float) -> Bounded:
    """truncate: min(ratio, high). band: ratio where low ≤ ratio ≤ high, else 0. ratio: any shape."""
    if how == "truncate":
        return Bounded(ratio.clamp(max=high), torch.ones_like(ratio, dtype=torch.bool), ratio > high)
    kept = (low <= ratio) & (ratio <= high)
    return Bounded(torch.where(kept, ratio, 0.0), kept, ~kept)


def mask(kept: Tensor, dtype: torch.dtype) -> Bounded:
    """A factor of 1 where `kept` (bool), 0 elsewhere."""
    return Bounded(kept.to(dtype), kept, ~kept)


def importance_ratio(stats: TokenStats, level: str, method: str) -> Tensor:
    """r per token, [B,T], or at level "sequence" Π r of each row, [B,1], which asks for one advantage a sequence.

    method: its name, for the message of the ValueError that advantages which vary raise.
    """
    if level == "token":
        return stats.ratio
    stats.sequence_advantage(method)
    return stats.exp(stats.sequence_log_ratio("sum"))


@dataclass(frozen=True)
class WeightedLikelihood(Algorithm):
    """Base of REINFORCE with a bounded importance weight: the published loss is itself −Σ sg(w)·A·log π."""

    def bounded(self, stats: TokenStats) -> Bounded:
        """The bounded importance ratio of each token, [B,T] or [B,1]."""
        raise NotImplementedError

    def weights(self, stats: TokenStats) -> TokenWeights:
        weight, kept, changed = self.bounded(stats)
        return weigh(stats, weight, kept=kept, changed=changed)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return weights.weights * stats.advantage * stats.logp
