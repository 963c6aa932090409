"""GRPO with PPO's clip.

A token stops contributing once its ratio has moved past ε in its advantage's direction.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


def sign_clip(ratio: Tensor, advantage: Tensor, low: Any, high: Any, dual: float | None = None) -> Tensor:
    """PPO's sign rule (arXiv 1707.06347) as a clamp: min(ratio, high) where A>0, max(ratio, low) where A<0.

    Times A it is the surrogate's value, min(ratio·A, clip(ratio, low, high)·A); where it differs from the
    ratio, the surrogate has no gradient. The inequality is strict, and A = 0 clips nothing. dual: where A<0,
    also min(…, dual) (arXiv 1912.09729). Shapes broadcast.
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

    def clip(self, stats: TokenStats) -> Tensor:
        """The clipped ratio of each token, [B,T]."""
        low, high = 1 - self.epsilon_low, 1 + self.epsilon_high
        return sign_clip(stats.ratio, stats.advantage, low, high, self.dual_clip)

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, stats.ratio, kept=self.clip(stats) == stats.ratio)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return self.clip(stats) * stats.advantage
