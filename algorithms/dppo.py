"""DPPO: a trust region in probability instead of in ratio."""

from dataclasses import dataclass

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
        moved = stats.logp.exp() - stats.logp_behaviour.detach().masked_fill(stats.padding, 0.0).exp()
        positive = stats.token_advantages > 0
        dropped = (positive & (moved > self.delta_high)) | (~positive & (moved < -self.delta_low))
        return weigh(stats, stats.ratio, dropped=dropped)
