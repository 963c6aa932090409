"""GRPO with PPO's clip: a token stops contributing once its ratio has moved past ε in its advantage's direction."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


def clipped(ratio: Tensor, advantage: Tensor, low: Any, high: Any, dual: float | None = None) -> Tensor:
    """Where PPO's sign rule (arXiv 1707.06347) leaves no gradient, bool: A>0 and ratio > high, or A<0 and ratio < low.

    ratio, advantage: [B,T] or [B,1], broadcast.
    low, high: bounds of the ratio, numbers or 0-d.
    dual: also where A<0 and ratio > dual (arXiv 1912.09729); None switches that off.
    """
    outside = ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))
    if dual is not None:
        outside = outside | ((advantage < 0) & (ratio > dual))
    return outside


def clip(ratio: Tensor, advantage: Tensor, low: Any, high: Any, dual: Any = None) -> Tensor:
    """The ratio that PPO's surrogate takes: min(ratio, high) where A>0; max(ratio, low), at most `dual`, where A<0.

    Arguments as in `clipped`. Times A it is the surrogate, min(ratio·A, clip(ratio, low, high)·A).
    """
    upper = torch.where(advantage > 0, ratio.clamp(max=high), ratio)
    return torch.where(advantage < 0, ratio.clamp(min=low, max=dual), upper)


@dataclass(frozen=True)
class GRPO(Algorithm):
    """w = r, but 0 where PPO's sign rule clips at 1 − ε_low and 1 + ε_high (arXiv 2402.03300).

    epsilon_low, epsilon_high: equal in the paper; apart, DAPO's clip-higher (arXiv 2503.14476).
    dual_clip: c > 1 also zeroes A<0 with r>c; None switches it off, as in the M2PO paper's baseline.
    """

    epsilon_low: float = number(0.2, low=0.0)
    epsilon_high: float = number(0.2, low=0.0)
    dual_clip: float | None = number(None, low=1.0)

    @property
    def bounds(self) -> tuple[float, float, float | None]:
        """Of the ratio: 1 − ε_low, 1 + ε_high and c."""
        return 1 - self.epsilon_low, 1 + self.epsilon_high, self.dual_clip

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, stats.ratio, kept=~clipped(stats.ratio, stats.advantage, *self.bounds))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return clip(stats.ratio, stats.advantage, *self.bounds) * stats.advantage
