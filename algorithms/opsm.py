"""Off-policy sequence masking: mask bad responses that the policy has already left behind."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.importance import Bounded, mask
from algorithms.interface import TokenStats, TokenWeights, number
from algorithms.wrapper import Wrapper, multiply


@dataclass(frozen=True, kw_only=True)
class OPSM(Wrapper):
    """Zeroes every token of a sequence with A<0 and mean(log π_behav − log π_θ) > δ; wraps a base method.

    Differs from its base on whole sequences only.
    delta: δ, nats per token; no agreed value exists (TRL's docs 0.5, slime 1e-4), so it is required.
    """

    delta: float = number(required=True, low=0.0)

    own_scope = "sequence"

    def factor(self, stats: TokenStats) -> Bounded:
        """0 on the masked sequences, 1 on the others, [B,1]."""
        left_behind = -stats.sequence_log_ratio("mean") > self.delta
        return mask(~((stats.sequence_advantage("opsm") < 0) & left_behind), stats.dtype)

    def weights(self, stats: TokenStats) -> TokenWeights:
        return multiply(stats, self.inner.weights(stats), self.factor(stats))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return self.inner.objective(stats, self.inner.weights(stats)) * self.factor(stats).weight
