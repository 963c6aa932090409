"""GRPO with PPO's clip.

A token stops contributing once its ratio has moved past ε in its advantage's direction.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


def clipped(ratio: Tensor, advantages: Tensor, low: Any, high: Any) -> Tensor:
    """PPO's sign rule, strict: (A>0 and ratio>high) or (A<0 and ratio<low). Shapes broadcast; bool."""
    return ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))


def clipped_objective(ratio: Tensor, advantages: Tensor, low: Any, high: Any) -> Tensor:
    """PPO's pessimistic value min(ratio·A, clip(ratio, low, high)·A) (arXiv 1707.06347)."""
    return torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)


@dataclass(frozen=True)
class GRPO(Algorithm):
    """w = r, but 0 where PPO's sign rule clips at 1 − ε_low and 1 + ε_high (arXiv 2402.03300).

    epsilon_low, epsilon_high: equal in the paper; apart, DAPO's clip-higher (arXiv 2503.14476). dual_clip: c
    > 1 also zeroes A<0 with r>c (arXiv 1912.09729); None switches it off, as in the M2PO paper's baseline.
    """

    epsilon_low: float = number(0.2, low=0.0)
    epsilon_high: float = number(0.2, low=0.0)
    dual_clip: float | None = number(None, low=1.0)

    def weights(self, stats: TokenStats) -> TokenWeights:
        ratio, advantages = stats.ratio, stats.token_advantages
        dropped = clipped(ratio, advantages, 1 - self.epsilon_low, 1 + self.epsilon_high)
        if self.dual_clip is not None:
            dropped |= (advantages < 0) & (ratio > self.dual_clip)
        return weigh(stats, ratio, dropped=dropped)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        advantages = stats.token_advantages
        value = clipped_objective(stats.ratio, advantages, 1 - self.epsilon_low, 1 + self.epsilon_high)
        if self.dual_clip is None:
            return value
        return torch.where(advantages < 0, torch.maximum(value, self.dual_clip * advantages), value)
