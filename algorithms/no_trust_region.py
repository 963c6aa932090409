"""No trust region: the plain importance-weighted policy gradient, GRPO with ε = ∞."""

from dataclasses import dataclass

from algorithms.interface import Algorithm, TokenStats, TokenWeights, weigh


@dataclass(frozen=True)
class NoTrustRegion(Algorithm):
    """w = r for every token. What the M2PO paper (arXiv 2510.01161) calls training without trust region."""

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, stats.ratio)
