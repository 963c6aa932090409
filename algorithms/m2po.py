"""M2PO: mask the fewest tokens that bring the second moment of the log-ratio under a budget."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from algorithms.decoupled import Decoupled
from algorithms.grpo import sign_clip, within
from algorithms.importance import Bounded
from algorithms.interface import LARGE, Algorithm, TokenStats, TokenWeights, number, weigh
from algorithms.m2_mask import CAPS, describe
from algorithms.wrapper import multiply

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
        cap, kept = self.rule(stats)
        metrics = describe(cap, self.variant)
        if self.variant != "areal":
            return weigh(stats, stats.ratio, kept=kept, metrics=metrics)
        kept = stats.mask if kept is None else kept & stats.mask
        base = multiply(stats, Decoupled().weights(stats), Bounded(kept.to(stats.dtype), kept, None))
        return replace(base, counted=kept, metrics=metrics)

    def rule(self, stats: TokenStats) -> tuple[Tensor, Tensor | None]:
        """The cap on M2, 0-d (NaN if there is none), and the tokens within it, [B,T] bool (None: all)."""
        distance, count = self.distances(stats)
        everything, size = distance, count
        if self.variant == "all_tokens_mean":
            everything, size = stats.log_ratio64.clamp(-LARGE, LARGE), stats.count
        flat = everything.reshape(-1)
        # The one synchronisation of the method.
        if flat.numel() == 0 or flat @ flat / size.clamp(min=1) < self.m2_threshold * SURELY_UNDER:
            return flat.new_full((), math.nan), None
        m2 = distance.square()
        rest = (everything.square() - m2, size - count) if self.variant == "all_tokens_mean" else ()
        cap = CAPS[self.variant](m2, count, self.m2_threshold, *rest)
        kept = m2 <= cap.clamp(min=0)
        if self.variant == "released" and (self.miniclip_low or self.miniclip_high):
            kept |= within(stats.ratio, stats.advantage, *self.floor)
        return cap, kept

    def distances(self, stats: TokenStats) -> tuple[Tensor, Tensor]:
        """√M2 of the region's tokens, [B,T] float64, 0 outside it; how many tokens it has, 0-d."""
        if self.variant != "areal":
            return stats.outward, stats.trust_region_count
        proximal = stats.require("logp_proximal", "m2po variant=areal")
        return stats.difference(proximal, stats.logp_behaviour).clamp(-LARGE, LARGE), stats.count

    @property
    def floor(self) -> tuple[float, float]:
        """The bounds that variant released never tightens beyond."""
        return 1 - (self.miniclip_low or 0.0), 1 + (self.miniclip_high or 0.0)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        if self.variant == "areal":
            return Decoupled().objective(stats, weights)
        if self.variant != "released":
            return super().objective(stats, weights)
        # The authors clip, so a dropped token keeps the bound in the surrogate's value.
        reach = weights.metrics["m2_cap"].nan_to_num(math.inf).sqrt()
        low, high = (-reach).exp().clamp(max=self.floor[0]), reach.exp().clamp(min=self.floor[1])
        return sign_clip(stats.ratio, stats.advantage, low, high) * stats.advantage
