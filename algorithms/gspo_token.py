"""GSPO-token: GSPO's sequence ratio with an advantage of each token's own."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.grpo import clip, clipped
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class GSPOToken(Algorithm):
    """w = s = exp(mean of l over the sequence), 0 where PPO's sign rule clips s (arXiv 2507.18071, section 4.3).

    Differs from GRPO in the ratio: one a sequence, so all its tokens share it; the sign is each token's own A. The
    aggregation supplies 1/length.
    epsilon_low, epsilon_high: GSPO's (section 5.1), for a mean moves far less than a token.
    """

    epsilon_low: float = number(3e-4, low=0.0)
    epsilon_high: float = number(4e-4, low=0.0)

    scope = "sequence"
    published_aggregation = "seq_mean_token_mean"

    @property
    def bounds(self) -> tuple[float, float]:
        """Log of the sequence ratio s_i, as GSPO clips it."""
        return 1 - self.epsilon_low, 1 + self.epsilon_high

    def ratio(self, stats: TokenStats) -> Tensor:
        """s of each row, [B,1]."""
        return stats.exp(stats.sequence_log_ratio("mean"))

    def weights(self, stats: TokenStats) -> TokenWeights:
        ratio = self.ratio(stats)
        return weigh(stats, ratio, kept=~clipped(ratio, stats.advantage, *self.bounds))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return clip(self.ratio(stats), stats.advantage, *self.bounds) * stats.advantage
