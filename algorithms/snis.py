"""Self-normalised importance sampling: weights divided by their mean over the mini-batch."""

from dataclasses import dataclass
from typing import Literal

import torch

from algorithms.importance import Bounded, WeightedLikelihood, importance_ratio
from algorithms.interface import TokenStats, number


@dataclass(frozen=True)
class SNIS(WeightedLikelihood):
    """w = min(r, C)/mean of min(r, C); or the same of Π r with the mean over sequences (verl: is_batch_normalize).

    Differs from TIS in the size of the step, not its direction: the weights of a mini-batch always average 1.
    ratio_cap: C; None means no cap.
    level: whether the ratio is a token's or a sequence's.
    """

    ratio_cap: float | None = number(None, low=0.0)
    level: Literal["token", "sequence"] = "token"

    scope = "batch"

    def bounded(self, stats: TokenStats) -> Bounded:
        ratio = importance_ratio(stats, self.level, "snis")
        capped = ratio if self.ratio_cap is None else ratio.clamp(max=self.ratio_cap)
        members = stats.mask if self.level == "token" else stats.lengths[:, None] > 0
        mean = torch.where(members, capped, 0.0).sum(dtype=torch.float64) / members.sum()
        weight = (capped / mean).to(stats.dtype)
        return Bounded(weight, torch.ones_like(weight, dtype=torch.bool), weight != ratio)
