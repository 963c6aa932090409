"""GMPO: the geometric mean of a sequence's ratios, each clipped by itself."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.grpo import clip, clipped
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class GMPO(Algorithm):
    """w = exp(mean over the sequence of the clipped l), 0 on the clipped tokens (arXiv 2507.20673).

    Differs from GSPO in that tokens are clipped, in l and before the mean, so that one outlier costs its own gradient
    and not the sequence's. The sign rule is PPO's. The aggregation supplies 1/length.
    epsilon_low, epsilon_high: bounds of l, nats: [−ε_low, ε_high].
    """

    epsilon_low: float = number(0.4, low=0.0)
    epsilon_high: float = number(0.4, low=0.0)

    scope = "sequence"
    published_aggregation = "seq_mean_token_mean"

    @property
    def bounds(self) -> tuple[float, float]:
        """Of l."""
        return -self.epsilon_low, self.epsilon_high

    def ratio(self, stats: TokenStats) -> Tensor:
        """The geometric mean of the clipped ratios of each row, [B,1]."""
        total = clip(stats.log_ratio64, stats.sequence_advantage("gmpo"), *self.bounds).sum(1, keepdim=True)
        return stats.exp(total / stats.lengths.clamp(min=1)[:, None])

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, self.ratio(stats), kept=~clipped(stats.log_ratio64, stats.advantage, *self.bounds))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return self.ratio(stats) * stats.token_advantages
