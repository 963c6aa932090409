"""Importance ratios and the two ways to bound them, for methods that correct for a second policy."""

from typing import Literal, NamedTuple

from torch import Tensor

from algorithms.interface import TokenStats

Bound = Literal["truncate", "band"]


class Bounded(NamedTuple):
    """A bounded ratio: the weight, where it survives (None: everywhere), where it was changed (None: fell)."""

    weight: Tensor
    kept: Tensor | None
    changed: Tensor | None


def bound(ratio: Tensor, how: Bound, low: float, high: float) -> Bounded:
    """truncate: min(ratio, high). band: ratio where low ≤ ratio ≤ high, else 0."""
    if how == "truncate":
        capped = ratio.clamp(max=high)
        return Bounded(capped, None, capped != ratio)
    kept = ratio.clamp(low, high) == ratio
    return Bounded(ratio * kept, kept, None)


def importance_ratio(stats: TokenStats, level: str, method: str) -> Tensor:
    """r per token, [B,T], or Π r of each sequence, [B,1], which asks for one advantage a sequence."""
    if level == "token":
        return stats.ratio
    stats.sequence_advantage(method)
    return stats.exp(stats.sequence_log_ratio("sum"))
