"""Engine-mismatch weight: corrects for the engine's log-probs not being the trainer's."""

from dataclasses import dataclass

from torch import Tensor

from algorithms.importance import Bound, Bounded, bound
from algorithms.interface import TokenStats, TokenWeights, number
from algorithms.wrapper import Wrapper, multiply


@dataclass(frozen=True, kw_only=True)
class EngineMismatch(Wrapper):
    """Multiplies a base's weight by π_trainer/π_engine at generation, truncated or banded; wraps a base method.

    With base=grpo or m2po: TIS combined with it, as in the later version of the M2PO paper. The factor is
    exp(logp_behaviour − logp_engine), a ratio that the base does not contain, so nothing is counted twice; it is 1
    where both are the trainer's.
    how: "truncate" caps the factor at ratio_cap, "band" masks outside [ratio_low, ratio_high].
    ratio_cap: for "truncate".
    ratio_low, ratio_high: for "band".
    """

    how: Bound = "truncate"
    ratio_cap: float = number(2.0, low=0.0)
    ratio_low: float = number(0.5, low=0.0)
    ratio_high: float = number(5.0, low=0.0)

    own_needs = frozenset({"logp_engine"})

    def mismatch(self, stats: TokenStats) -> Bounded:
        """The bounded π_trainer/π_engine, [B,T]."""
        gap = stats.difference(stats.logp_behaviour, stats.require("logp_engine", "engine_mismatch"))
        high = self.ratio_cap if self.how == "truncate" else self.ratio_high
        return bound(stats.exp(gap), self.how, self.ratio_low, high)

    def weights(self, stats: TokenStats) -> TokenWeights:
        return multiply(stats, self.inner.weights(stats), self.mismatch(stats))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return self.inner.objective(stats, self.inner.weights(stats)) * self.mismatch(stats).weight
