"""GPPO: PPO's clip that keeps a bounded gradient where PPO has none."""

from dataclasses import dataclass

from algorithms.grpo import clip
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class GPPO(Algorithm):
    """w = r, but the bound itself where PPO's sign rule would clip (Klear-Reasoner, arXiv 2508.07629).

    Differs from GRPO only in the two clipped quadrants: weight 1 + ε_high or 1 − ε_low instead of 0. The
    authors' scripts add a dual clip at 10; ours is off.
    epsilon_low, epsilon_high: 0.2 and 0.28 in the paper.
    """

    epsilon_low: float = number(0.2, low=0.0)
    epsilon_high: float = number(0.28, low=0.0)

    def weights(self, stats: TokenStats) -> TokenWeights:
        held = clip(stats.ratio, stats.advantage, 1 - self.epsilon_low, 1 + self.epsilon_high)
        return weigh(stats, held, changed=held != stats.ratio)
