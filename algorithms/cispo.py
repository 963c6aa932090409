"""CISPO: a capped importance weight on a likelihood, so that no token ever loses its gradient."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.importance import Bounded, bound
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class WeightedLikelihood(Algorithm):
    """REINFORCE with a bounded importance weight: the published loss is itself −Σ sg(w)·A·log π."""

    def bounded(self, stats: TokenStats) -> Bounded:
        """The bounded importance ratio of each token, [B,T] or [B,1]."""
        raise NotImplementedError

    def weights(self, stats: TokenStats) -> TokenWeights:
        weight, kept, changed = self.bounded(stats)
        return weigh(stats, weight, kept=kept, changed=changed)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return weights.weights * stats.advantage * stats.logp


@dataclass(frozen=True)
class CISPO(WeightedLikelihood):
    """w = min(r, ratio_cap), never zero (MiniMax-M1, arXiv 2506.13585).

    Differs from GRPO in that a large ratio is held at the cap instead of dropped, on either sign of A.
    ratio_cap: the absolute cap (TRL's docs recommend 5.0). Token-level TIS with it is the same function.
    """

    ratio_cap: float = number(5.0, low=0.0)

    def bounded(self, stats: TokenStats) -> Bounded:
        return bound(stats.ratio, "truncate", 0.0, self.ratio_cap)
