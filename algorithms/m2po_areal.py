"""M2PO as AReaL 1.0.4 has it: a mask on π_prox/π_behav around decoupled PPO."""

import math
from dataclasses import dataclass, replace

from torch import Tensor

from algorithms import m2_mask
from algorithms.decoupled import Decoupled
from algorithms.importance import mask
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number
from algorithms.wrapper import multiply


@dataclass(frozen=True)
class ArealM2PO(Algorithm):
    """The decoupled weight, 0 where M2 = (log π_prox − log π_behav)² is above a cap found on the whole batch.

    Differs from the paper's variant: all valid tokens may be masked, whatever the sign of A; the mean of those kept is
    strictly under τ; the smallest M2 is always kept; D counts kept tokens only, so the gradient grows by N/N_kept.
    Named by `m2po` as variant "areal".
    m2_threshold: τ, nats². Metric: m2_cap, the largest M2 that may stay (nats², NaN if all may).
    """

    m2_threshold: float = number(0.04, low=0.0)

    scope = "batch"
    needs = frozenset({"logp_proximal"})

    def weights(self, stats: TokenStats) -> TokenWeights:
        proximal = stats.require("logp_proximal", "m2po variant=areal")
        m2, cap = stats.difference(proximal, stats.logp_behaviour).square(), stats.count.new_full((), math.inf)
        if not m2_mask.surely_within(m2, stats.count, self.m2_threshold):
            cap = m2_mask.areal(m2, stats.count, self.m2_threshold)
        kept = stats.mask & (m2 <= cap)
        weights = multiply(stats, Decoupled().weights(stats), mask(kept, stats.dtype))
        return replace(weights, counted=kept, metrics=m2_mask.describe(cap))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return Decoupled().objective(stats, weights)
