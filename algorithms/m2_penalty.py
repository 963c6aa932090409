"""Squared-log-ratio penalty: the second moment as a soft regulariser, added to any method."""

from dataclasses import dataclass, replace

from torch import Tensor

from algorithms.interface import TokenStats, TokenWeights, number
from algorithms.token_stats import LOG_RATIO_BOUND
from algorithms.wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class M2Penalty(Wrapper):
    """Adds c = −2κ·l on every valid token, masked ones too: the gradient of a loss κ·l²; wraps a base method.

    Differs from its base in a pull back towards the behaviour policy. With base=dppo it is prime-rl's default loss.
    l is clamped to ±20, as everywhere.
    kappa: κ, per nat².
    """

    base: str = "dppo"
    kappa: float = number(1e-3, low=0.0)

    def weights(self, stats: TokenStats) -> TokenWeights:
        inner = self.inner.weights(stats)
        return replace(inner, offsets=inner.offsets - 2 * self.kappa * self.pull(stats))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        penalty = self.kappa * self.pull(stats).square()
        return self.inner.objective(stats, self.inner.weights(stats)) - penalty

    def pull(self, stats: TokenStats) -> Tensor:
        """l clamped, [B,T] in the dtype of the weights, 0 outside the mask."""
        return stats.log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).to(stats.dtype)
