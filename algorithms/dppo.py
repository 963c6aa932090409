"""DPPO: a trust region in probability instead of in ratio."""

from dataclasses import dataclass

import torch

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class DPPO(Algorithm):
    """w = r, but 0 where π_θ(a) has moved past δ from π_behav(a) in its advantage's direction.

    The total-variation form of DPPO (arXiv 2602.04879). Differs from GRPO in the yardstick: a rare token may
    multiply its probability and stay, a common one may not move far.
    delta_low, delta_high: δ where A ≤ 0 and where A > 0, probabilities (0.2 in prime-rl, 0.15 in the authors' example).
    """

    delta_low: float = number(0.2, low=0.0)
    delta_high: float = number(0.2, low=0.0)

    def weights(self, stats: TokenStats) -> TokenWeights:
        moved = stats.logp.exp() - stats.behaviour.exp()
        clipped = torch.where(stats.advantage > 0, moved > self.delta_high, moved < -self.delta_low)
        return weigh(stats, stats.ratio, kept=~clipped)
