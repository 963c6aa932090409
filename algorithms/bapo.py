"""BAPO: PPO's clip with bounds found anew for each mini-batch, until good tokens carry their share."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from algorithms.grpo import sign_clip, within
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class BAPO(Algorithm):
    """w = r inside PPO's sign rule with bounds [c_low, c_high] adapted to the batch (arXiv 2510.18927).

    Differs from GRPO in the bounds: from (low_start, high_start), c_high rises by high_step up to high_end,
    then c_low by low_step up to low_end, until ρ = P/(P + Q) ≥ positive_share, where P = Σ_{A>0} p·A·min(r,
    c_high) and Q = Σ_{A<0} p·|A|·max(r, c_low). p: "behaviour" is π_behav(a) (the paper, eq. 8), "one" the
    authors' code. Metrics: bapo_low, bapo_high (ratios) and bapo_positive_share (ρ at those bounds).
    """

    positive_share: float = number(0.4, low=0.0, high=1.0)
    p: Literal["behaviour", "one"] = "behaviour"
    low_start: float = number(0.6, low=0.0)
    low_end: float = number(0.9, low=0.0)
    low_step: float = number(0.02, low=1e-6)
    high_start: float = number(1.2, low=0.0)
    high_end: float = number(3.0, low=0.0)
    high_step: float = number(0.05, low=1e-6)

    scope = "batch"

    def bounds(self, stats: TokenStats) -> tuple[Tensor, Tensor, Tensor]:
        """c_low, c_high and ρ, 0-d float64."""
        advantages, ratio = stats.token_advantages.double(), stats.ratio.double()
        if self.p == "behaviour":
            advantages = advantages * stats.behaviour.double().exp()
        ratio, advantages = ratio.reshape(-1), advantages.reshape(-1)
        good, bad = advantages.clamp(min=0), (-advantages).clamp(min=0)
        highs = _grid(self.high_start, self.high_end, self.high_step)
        lows = _grid(self.low_start, self.low_end, self.low_step)
        positive = torch.stack([torch.dot(good, ratio.clamp(max=high)) for high in highs])
        negative = torch.stack([torch.dot(bad, ratio.clamp(min=low)) for low in lows])
        # The walk: every c_high at the first c_low, then every further c_low at the last c_high.
        positive = torch.cat([positive, positive[-1:].expand(len(lows) - 1)])
        negative = torch.cat([negative[:1].expand(len(highs) - 1), negative])
        share = positive / (positive + negative)
        # NaN (P + Q = 0) is not below the target, so it stops the walk at its start.
        stop = (share < self.positive_share).long().cumprod(0).sum().clamp(max=len(share) - 1)
        low = ratio.new_tensor(lows).take((stop - len(highs) + 1).clamp(min=0))
        high = ratio.new_tensor(highs).take(stop.clamp(max=len(highs) - 1))
        return low, high, share.take(stop)

    def weights(self, stats: TokenStats) -> TokenWeights:
        low, high, share = self.bounds(stats)
        metrics = {"bapo_low": low, "bapo_high": high, "bapo_positive_share": share}
        return weigh(stats, stats.ratio, kept=within(stats.ratio, stats.advantage, low, high), metrics=metrics)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        low, high = weights.metrics["bapo_low"], weights.metrics["bapo_high"]
        return sign_clip(stats.ratio, stats.advantage, low, high) * stats.advantage


def _grid(start: float, end: float, step: float) -> list[float]:
    """start, start + step, … ≤ end, counted in integers: adding 0.02 in floats would stop short of 0.9."""
    return [start + step * i for i in range(max(0, round((end - start) / step * 1e6) // 10**6) + 1)]
