"""Masked importance sampling between two policies: REINFORCE that masks what lies outside a band."""

from dataclasses import dataclass
from typing import Literal

from algorithms.importance import Bounded, WeightedLikelihood, bound, importance_ratio
from algorithms.interface import TokenStats, number


@dataclass(frozen=True)
class MIS(WeightedLikelihood):
    """w = r where ratio_low ≤ r ≤ ratio_high, else 0; or the same of Π r, on each token of a sequence.

    Differs from GRPO in that both tails are masked whatever the sign of A. IcePop's band between two policies; as
    published it has three: `decoupled` with mode=band.
    ratio_low, ratio_high: the band, ends included.
    level: whether the ratio is a token's or a sequence's.
    """

    ratio_low: float = number(0.5, low=0.0)
    ratio_high: float = number(5.0, low=0.0)
    level: Literal["token", "sequence"] = "token"

    @property
    def scope(self) -> str:
        return self.level

    def bounded(self, stats: TokenStats) -> Bounded:
        return bound(importance_ratio(stats, self.level, "mis"), "band", self.ratio_low, self.ratio_high)
