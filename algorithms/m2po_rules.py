"""The variants of M2PO that mask trust-region tokens of r; `m2po` names them. They differ in the cap on M2 = l²."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms import m2_mask
from algorithms.grpo import clip, clipped
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class PaperM2PO(Algorithm):
    """Mask the largest l² of T while the mean over the rest of T exceeds τ (arXiv 2510.01161, Algorithm 1).

    m2_threshold: τ, nats². Metric: m2_cap, the largest l² that may stay (nats², NaN if all may).
    """

    m2_threshold: float = number(0.04, low=0.0)

    scope = "batch"

    def weights(self, stats: TokenStats) -> TokenWeights:
        cap = region_cap(stats, m2_mask.paper, self.m2_threshold)
        return weigh(stats, stats.ratio, kept=within(stats, cap), metrics=m2_mask.describe(cap))


@dataclass(frozen=True)
class ReleasedM2PO(Algorithm):
    """Clip T at the l² where the mean over T of min(l², cap) reaches τ: the authors' code (Infini-AI-Lab/M2PO).

    m2_threshold: τ, nats².
    miniclip_low, miniclip_high: no ratio within [1 − low, 1 + high] is masked; None means 0.
    Metric: m2_cap, as in `PaperM2PO`.
    """

    m2_threshold: float = number(0.04, low=0.0)
    miniclip_low: float | None = number(None, low=0.0)
    miniclip_high: float | None = number(None, low=0.0)

    scope = "batch"

    @property
    def floor(self) -> tuple[float, float]:
        """The bounds of the ratio that the clip never tightens beyond."""
        return 1 - (self.miniclip_low or 0.0), 1 + (self.miniclip_high or 0.0)

    def weights(self, stats: TokenStats) -> TokenWeights:
        cap = region_cap(stats, m2_mask.released, self.m2_threshold)
        kept = within(stats, cap)
        if self.miniclip_low or self.miniclip_high:
            kept = kept | ~clipped(stats.ratio, stats.advantage, *self.floor)
        return weigh(stats, stats.ratio, kept=kept, metrics=m2_mask.describe(cap))

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        # The authors clip, so a masked token keeps the bound in the surrogate's value.
        reach = weights.metrics["m2_cap"].nan_to_num(math.inf).sqrt()
        low, high = (-reach).exp().clamp(max=self.floor[0]), reach.exp().clamp(min=self.floor[1])
        return clip(stats.ratio, stats.advantage, low, high) * stats.advantage


@dataclass(frozen=True)
class AllTokensMeanM2PO(Algorithm):
    """Mask the fewest of T, largest l² first, that bring the mean over all remaining valid tokens under τ.

    A reading of the prose of arXiv 2510.01161.
    m2_threshold: τ, nats².
    Metrics: m2_cap, as in `PaperM2PO`; m2_unreachable, 1 if masking all of T is not enough.
    """

    m2_threshold: float = number(0.04, low=0.0)

    scope = "batch"

    def weights(self, stats: TokenStats) -> TokenWeights:
        everywhere = stats.log_ratio64.square()
        cap, reached = everywhere.new_full((), math.inf), torch.ones_like(stats.count, dtype=torch.bool)
        if not m2_mask.surely_within(everywhere, stats.count, self.m2_threshold):
            count = torch.count_nonzero(stats.trust_region).double()
            rest = torch.where(stats.trust_region, 0.0, everywhere), stats.count - count
            cap, reached = m2_mask.all_tokens_mean(stats.trust_region_m2, count, self.m2_threshold, *rest)
        metrics = m2_mask.describe(cap) | {"m2_unreachable": (~reached).double()}
        return weigh(stats, stats.ratio, kept=within(stats, cap), metrics=metrics)


def region_cap(stats: TokenStats, rule: m2_mask.Rule, threshold: float) -> Tensor:
    """The cap that `rule` sets on the trust region, 0-d float64 nats²; Inf where the mean is surely under τ."""
    m2, count = stats.trust_region_m2, torch.count_nonzero(stats.trust_region).double()
    return m2.new_full((), math.inf) if m2_mask.surely_within(m2, count, threshold) else rule(m2, count, threshold)


def within(stats: TokenStats, cap: Tensor) -> Tensor:
    """Tokens outside T, and those of T with l² ≤ cap, [B,T] bool."""
    return stats.trust_region_m2 <= cap
