"""DPPO: a trust region in probability instead of in ratio."""

import math
from dataclasses import dataclass

import torch

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class DPPO(Algorithm):
    """w = r, but 0 where π_θ(a) has moved past δ from π_behav(a) in its advantage's direction.

    The total-variation form of DPPO (arXiv 2602.04879). Differs from GRPO in the yardstick: a rare token may
    multiply its probability and stay, a common one may not move far. delta_low bounds A ≤ 0, delta_high A >
    0; both are probabilities (0.2 in prime-rl, 0.15 in the authors' example).
    """

    delta_low: float = number(0.2, low=0.0)
    delta_high: float = number(0.2, low=0.0)

    def weights(self, stats: TokenStats) -> TokenWeights:
        moved = stats.logp.exp() - stats.behaviour.exp()
        positive = stats.advantage > 0
        ceiling = torch.full_like(stats.advantage, math.inf).masked_fill_(positive, self.delta_high)
        floor = torch.full_like(stats.advantage, -self.delta_low).masked_fill_(positive, -math.inf)
        return weigh(stats, stats.ratio, kept=moved.clamp(floor, ceiling) == moved)
