"""CISPO: a capped importance weight on a likelihood, so that no token ever loses its gradient."""

from dataclasses import dataclass

from algorithms.importance import Bounded, WeightedLikelihood, bound
from algorithms.interface import TokenStats, number


@dataclass(frozen=True)
class CISPO(WeightedLikelihood):
    """w = min(r, ratio_cap), never zero (MiniMax-M1, arXiv 2506.13585).

    Differs from GRPO in that a large ratio is held at the cap instead of masked, on either sign of A. Token-level TIS
    with the same cap is the same function.
    ratio_cap: the absolute cap (TRL's docs recommend 5.0).
    """

    ratio_cap: float = number(5.0, low=0.0)

    def bounded(self, stats: TokenStats) -> Bounded:
        return bound(stats.ratio, "truncate", 0.0, self.ratio_cap)
