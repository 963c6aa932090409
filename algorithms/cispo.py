"""CISPO: a capped importance weight on a likelihood, so that no token ever loses its gradient."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class CISPO(Algorithm):
    """w = min(r, ratio_cap), never zero (arXiv 2506.13585).

    Differs from GRPO in that a large ratio is held at the cap instead of dropped, on either sign of A.
    Token-level TIS with the same cap is the same function. ratio_cap is absolute (1 + ε_high of the paper).
    """

    ratio_cap: float = number(5.0, low=0.0)

    def importance_ratio(self, stats: TokenStats) -> Tensor:
        """The ratio that is capped, [B,T] or [B,1]."""
        return stats.ratio

    def weights(self, stats: TokenStats) -> TokenWeights:
        ratio = self.importance_ratio(stats)
        return weigh(stats, ratio.clamp(max=self.ratio_cap), changed=ratio > self.ratio_cap)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return weights.weights * stats.token_advantages * stats.logp
