"""M2PO: mask the fewest tokens that bring the second moment of the log-ratio under a budget."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number
from algorithms.m2po_areal import ArealM2PO
from algorithms.m2po_rules import AllTokensMeanM2PO, PaperM2PO, ReleasedM2PO

VARIANTS: dict[str, type[Algorithm]] = {
    "paper": PaperM2PO,
    "released": ReleasedM2PO,
    "all_tokens_mean": AllTokensMeanM2PO,
    "areal": ArealM2PO,
}


@dataclass(frozen=True)
class M2PO(Algorithm):
    """w = r·M; M masks trust-region tokens until the mean of l² over the rest is ≤ τ (arXiv 2510.01161).

    Differs from GRPO in who is masked: not every token past ε, only the most extreme, and only if the batch
    as a whole exceeds its budget. D counts all valid tokens (footnote 2), except in variant areal.
    m2_threshold: τ ≥ 0, nats².
    variant: "paper" (Algorithm 1), "released" (the authors' code), "all_tokens_mean" or "areal", each a method of its
    own (`VARIANTS`): they mask different tokens, see docs/algorithms/m2po.md.
    miniclip_low, miniclip_high: variant released only, bounds 1 − low and 1 + high of the ratio that its clip never
    tightens beyond (unset in the authors' scripts).
    """

    m2_threshold: float = number(0.04, low=0.0)
    variant: Literal["paper", "released", "all_tokens_mean", "areal"] = "paper"
    miniclip_low: float | None = number(None, low=0.0)
    miniclip_high: float | None = number(None, low=0.0)

    scope = "batch"

    @cached_property
    def rule(self) -> Algorithm:
        """The method that `variant` names, with those of the parameters that it takes."""
        method = VARIANTS[self.variant]
        return method(**{f.name: getattr(self, f.name) for f in fields(method)})

    @property
    def needs(self) -> frozenset[str]:
        """What the variant needs."""
        return frozenset(self.rule.needs)

    def weights(self, stats: TokenStats) -> TokenWeights:
        return self.rule.weights(stats)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        return self.rule.objective(stats, weights)
