"""Off-policy sequence masking: drop bad responses that the policy has already left behind."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.interface import TokenStats, TokenWeights, number
from algorithms.wrapper import Wrapper, multiply


@dataclass(frozen=True, kw_only=True)
class OPSM(Wrapper):
    """Zeroes every token of a sequence with A<0 and mean(log π_behav − log π_θ) > δ; wraps a base method.

    Differs from its base on whole sequences only. delta: δ in nats per token; no agreed value exists (TRL's
    docs 0.5, slime 1e-4), so it is required.
    """

    delta: float = number(required=True, low=0.0)

    own_scope = "sequence"

    def masked(self, stats: TokenStats) -> Tensor:
        """[B,1] bool, the sequences that fall."""
        return (stats.sequence_advantages("opsm") < 0) & (-stats.sequence_log_ratio("mean") > self.delta)

    def weights(self, stats: TokenStats) -> TokenWeights:
        masked = self.masked(stats)
        return multiply(self.inner.weights(stats), (~masked).to(stats.dtype), masked, masked)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return self.inner.objective(stats, self.inner.weights(stats)).masked_fill(self.masked(stats), 0.0)
