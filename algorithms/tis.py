"""Truncated importance sampling between two policies: REINFORCE with a capped weight."""

from dataclasses import dataclass
from typing import Literal

from algorithms.importance import Bounded, WeightedLikelihood, bound, importance_ratio
from algorithms.interface import TokenStats, number


@dataclass(frozen=True)
class TIS(WeightedLikelihood):
    """w = min(r, C) per token, or min(Π r, C) on each token of a sequence.

    Differs from GRPO as CISPO does, which it equals at the token level. The two-policy form (current against
    behaviour) of truncated importance sampling; as published it has three: `decoupled` with mode=truncate.
    ratio_cap: C.
    level: whether the ratio is a token's or a sequence's.
    """

    ratio_cap: float = number(2.0, low=0.0)
    level: Literal["token", "sequence"] = "token"

    @property
    def scope(self) -> str:
        return self.level

    def bounded(self, stats: TokenStats) -> Bounded:
        return bound(importance_ratio(stats, self.level, "tis"), "truncate", 0.0, self.ratio_cap)
