"""GRPO with PPO's clip.

A token stops contributing once its ratio has moved past ε in its advantage's direction.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


def within(ratio: Tensor, advantage: Tensor, low: Any, high: Any, dual: float | None = None) -> Tensor:
    """PPO's sign rule (arXiv 1707.06347): False where the ratio has passed its bound in its advantage's direction.

    That is ratio > high where A>0 and ratio < low where A<0, strictly; A = 0 passes nothing. dual: also ratio >
    dual where A<0 (arXiv 1912.09729). Shapes broadcast.
    """
    passed = (ratio - ratio.clamp(low, high)) * advantage
    inside = passed <= 0
    return inside if dual is None else inside & ~((ratio > dual) & (advantage < 0))


def sign_clip(ratio: Tensor, advantage: Tensor, low: Any, high: Any, dual: float | None = None) -> Tensor:
    """The same rule as a clamp: min(ratio, high) where A>0, max(ratio, low) where A<0, and there min(…, dual).

    Times A it is the surrogate's value, min(ratio·A, clip(ratio, low, high)·A).
    """
    negative = advantage < 0
    floor = torch.full_like(advantage, -math.inf).masked_fill_(negative, low)
    ceiling = torch.full_like(advantage, math.inf).masked_fill_(advantage > 0, high)
    if dual is not None:
        ceiling.masked_fill_(negative, dual)
    return ratio.clamp(floor, ceiling)


@dataclass(frozen=True)
class GRPO(Algorithm):
    """w = r, but 0 where PPO's sign rule clips at 1 − ε_low and 1 + ε_high (arXiv 2402.03300).

    epsilon_low, epsilon_high: equal in the paper; apart, DAPO's clip-higher (arXiv 2503.14476). dual_clip: c
    > 1 also zeroes A<0 with r>c; None switches it off, as in the M2PO paper's baseline.
    """

    epsilon_low: float = number(0.2, low=0.0)
    epsilon_high: float = number(0.2, low=0.0)
    dual_clip: float | None = number(None, low=1.0)

    @property
    def bounds(self) -> tuple[float, float, float | None]:
        """Of the ratio: 1 − ε_low, 1 + ε_high and c."""
        return 1 - self.epsilon_low, 1 + self.epsilon_high, self.dual_clip

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, stats.ratio, kept=within(stats.ratio, stats.advantage, *self.bounds))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return sign_clip(stats.ratio, stats.advantage, *self.bounds) * stats.advantage
