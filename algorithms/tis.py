"""Truncated importance sampling between two policies: REINFORCE with a capped weight."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from algorithms.cispo import CISPO
from algorithms.interface import TokenStats, number


def importance_ratio(stats: TokenStats, level: str, method: str) -> Tensor:
    """r per token, [B,T], or Π r per sequence, [B,1], which asks for one advantage a sequence."""
    if level == "token":
        return stats.ratio
    stats.sequence_advantages(method)
    return stats.exp(stats.sequence_log_ratio("sum"))


@dataclass(frozen=True)
class TIS(CISPO):
    """w = min(r, C) per token, or min(Π r, C) on each token of a sequence; C = `ratio_cap`.

    Differs from GRPO as CISPO does, which it equals at the token level. The two-policy form (current against
    behaviour) of truncated importance sampling; TIS as published has three policies: `decoupled`,
    mode=truncate.
    """

    ratio_cap: float = number(2.0, low=0.0)
    level: Literal["token", "sequence"] = "token"

    @property
    def scope(self) -> str:
        return self.level

    def importance_ratio(self, stats: TokenStats) -> Tensor:
        return importance_ratio(stats, self.level, "tis level=sequence")
