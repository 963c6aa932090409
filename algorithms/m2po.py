"""M2PO: mask the fewest tokens that bring the second moment of the log-ratio under a budget."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh
from algorithms.m2_mask import prefix_mean_cap

SURELY_UNDER = 1 - 1e-9
"""Only a mean under this share of τ skips the sort: nearer, an unsorted sum may round wrongly."""


@dataclass(frozen=True)
class M2PO(Algorithm):
    """w = r·M; M drops trust-region tokens until the mean of l² over the rest is ≤ τ.

    Algorithm 1 of arXiv 2510.01161. Differs from GRPO in who is dropped: not every token past ε, only the most extreme, and only if the batch
    as a whole exceeds its budget. D counts all valid tokens (footnote 2).
    m2_threshold: τ ≥ 0, in nats² (0.04 in the paper). variant: see docs/algorithms/m2po.md.
    """

    m2_threshold: float = number(0.04, low=0.0)
    variant: Literal["paper"] = "paper"

    scope = "batch"

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, stats.ratio, dropped=self.masked(stats))

    def masked(self, stats: TokenStats) -> Tensor | None:
        """The tokens that fall, [B,T] bool; None if none do. Holds the method's one synchronisation."""
        region = stats.trust_region
        m2 = stats.log_ratio.square()
        mean = m2.masked_fill(~region, 0.0).sum() / region.sum().clamp(min=1)
        if mean < self.m2_threshold * SURELY_UNDER or m2.numel() == 0:
            return None
        # Inf where a token is outside T: sorted last and never admitted, so no count leaves the device.
        values = m2.masked_fill(~region, math.inf).reshape(-1)
        return region & (m2 > prefix_mean_cap(values, self.m2_threshold))
