"""M2PO: mask the fewest tokens that bring the second moment of the log-ratio under a budget."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from algorithms.decoupled import Decoupled
from algorithms.grpo import clipped, clipped_objective
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh
from algorithms.m2_mask import CAPS

SURELY_UNDER = 1 - 1e-9
"""Only a mean under this share of τ skips the sort: nearer, an unsorted sum may round to the wrong side."""


@dataclass(frozen=True)
class M2PO(Algorithm):
    """w = r·M; M drops trust-region tokens until the mean of l² over the rest is ≤ τ (arXiv 2510.01161).

    Differs from GRPO in who is dropped: not every token past ε, only the most extreme, and only if the batch
    as a whole exceeds its budget. D counts all valid tokens (footnote 2), except in variant areal.
    m2_threshold: τ ≥ 0, in nats². variant: "paper" (Algorithm 1), "released" (the authors' code),
    "all_tokens_mean" or "areal"; they mask different tokens, see docs/algorithms/m2po.md. miniclip_low,
    _high: variant released only, a floor for its clip bounds as in the authors' code (unset in their
    scripts). Metrics: m2_cap, the largest l² that may stay (nats², NaN if all may); m2_unreachable
    (all_tokens_mean).
    """

    m2_threshold: float = number(0.04, low=0.0)
    variant: Literal["paper", "released", "all_tokens_mean", "areal"] = "paper"
    miniclip_low: float | None = number(None, low=0.0)
    miniclip_high: float | None = number(None, low=0.0)

    scope = "batch"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logp_proximal"} if self.variant == "areal" else ())

    def weights(self, stats: TokenStats) -> TokenWeights:
        cap, dropped = self.masked(stats)
        metrics = {"m2_cap": cap.clamp(min=0).masked_fill(cap == math.inf, math.nan)}
        if self.variant == "areal":
            inner = Decoupled().weights(stats)
            fallen = stats.padding if dropped is None else dropped | stats.padding
            return replace(
                inner,
                weights=inner.weights.masked_fill(fallen, 0.0),
                kept=inner.kept & ~fallen,
                counted=~fallen,
                changed=inner.changed | (stats.mask & fallen),
                metrics=metrics,
            )
        if self.variant == "all_tokens_mean":
            metrics["m2_unreachable"] = (cap == -math.inf).double()
        return weigh(stats, stats.ratio, dropped=dropped, metrics=metrics)

    def masked(self, stats: TokenStats) -> tuple[Tensor, Tensor | None]:
        """The cap (NaN without one) and the tokens that fall, [B,T] bool. Holds the one synchronisation."""
        region, log_ratio = stats.trust_region, stats.log_ratio
        if self.variant == "areal":
            proximal = stats.require("logp_proximal", "m2po variant=areal")
            region, log_ratio = stats.mask, stats.difference(proximal, stats.logp_behaviour)
        m2 = log_ratio.square()
        budgeted = stats.mask if self.variant == "all_tokens_mean" else region
        mean = m2.masked_fill(~budgeted, 0.0).sum() / budgeted.sum().clamp(min=1)
        if m2.numel() == 0 or mean < self.m2_threshold * SURELY_UNDER:
            return m2.new_full((), math.nan), None
        cap = CAPS[self.variant](m2, region, stats.mask, self.m2_threshold)
        dropped = region & (m2 > cap)
        if self.variant == "released" and (self.miniclip_low or self.miniclip_high):
            low, high = 1 - (self.miniclip_low or 0.0), 1 + (self.miniclip_high or 0.0)
            dropped &= clipped(stats.ratio, stats.token_advantages, low, high)
        return cap, dropped

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        if self.variant == "areal":
            return Decoupled().objective(stats, weights).masked_fill(~weights.counted, 0.0)
        if self.variant != "released":
            return weights.weights * stats.token_advantages
        # The authors clip, so a dropped token keeps the bound in the surrogate's value.
        reach = weights.metrics["m2_cap"].nan_to_num(math.inf).sqrt()
        low = (-reach).exp().clamp(max=1 - (self.miniclip_low or 0.0))
        high = reach.exp().clamp(min=1 + (self.miniclip_high or 0.0))
        return clipped_objective(stats.ratio, stats.token_advantages, low, high)
