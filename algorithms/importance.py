"""Importance ratios and the two ways to bound them, for methods that correct for a second policy."""

from typing import Literal, NamedTuple

from torch import Tensor

from algorithms.interface import TokenStats

Bound = Literal["truncate", "band"]


class Bounded(NamedTuple):
    """A bounded ratio: the weight, where it falls to zero (None: nowhere), and where it was changed; bool."""

    weight: Tensor
    dropped: Tensor | None
    changed: Tensor


def bound(ratio: Tensor, how: Bound, low: float, high: float) -> Bounded:
    """truncate: min(ratio, high). band: ratio where low ≤ ratio ≤ high, else 0. NaN stays."""
    above = ratio > high
    if how == "truncate":
        return Bounded(ratio.clamp(max=high), None, above)
    outside = above | (ratio < low)
    return Bounded(ratio.masked_fill(outside, 0.0), outside, outside)


def importance_ratio(stats: TokenStats, level: str, method: str) -> Tensor:
    """r per token, [B,T], or Π r of each sequence, [B,1], which asks for one advantage a sequence."""
    if level == "token":
        return stats.ratio
    stats.sequence_advantages(method)
    return stats.exp(stats.sequence_log_ratio("sum"))
