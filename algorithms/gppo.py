"""GPPO: PPO's clip that keeps a bounded gradient where PPO has none."""

import math
from dataclasses import dataclass

from torch import Tensor

from algorithms.grpo import clip, clipped
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class GPPO(Algorithm):
    """w = r, but the bound itself where PPO's sign rule would clip (Klear-Reasoner, arXiv 2508.07629).

    Differs from GRPO only in the two clipped quadrants: weight 1 + ε_high or 1 − ε_low instead of 0.
    epsilon_low, epsilon_high: 0.2 and 0.28 in the paper.
    dual_clip: c > 1 zeroes A<0 with r>c, as PPO's does (the authors' code 3, their scripts 10); None switches it off.
    """

    epsilon_low: float = number(0.2, low=0.0)
    epsilon_high: float = number(0.28, low=0.0)
    dual_clip: float | None = number(None, low=1.0)

    def weights(self, stats: TokenStats) -> TokenWeights:
        held = clip(stats.ratio, stats.advantage, 1 - self.epsilon_low, 1 + self.epsilon_high)
        beyond = clipped(stats.ratio, stats.advantage, 0.0, math.inf, self.dual_clip)
        return weigh(stats, held, kept=~beyond, changed=held != stats.ratio)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        bounds = 1 - self.epsilon_low, 1 + self.epsilon_high, self.dual_clip
        return clip(stats.ratio, stats.advantage, *bounds) * stats.advantage
