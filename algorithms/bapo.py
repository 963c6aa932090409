"""BAPO: PPO's clip with bounds found anew for each mini-batch, until good tokens carry their share."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from algorithms.grpo import clip, clipped
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class BAPO(Algorithm):
    """w = r inside PPO's sign rule with bounds [c_low, c_high] adapted to the batch (arXiv 2510.18927).

    Differs from GRPO in the bounds, which are those at the end of this loop:

        c_low, c_high = low_start, high_start
        while ρ(c_low, c_high) < positive_share and c_low + low_step ≤ low_end:
            if c_high + high_step ≤ high_end: c_high += high_step
            else: c_low += low_step

    or, in the order of the authors' code, the other way round: first c_low to its end, then c_high. In both
    ρ = P/(P + Q), P = Σ_{A>0} p·A·min(r, c_high) and Q = Σ_{A<0} p·|A|·max(r, c_low).
    positive_share: ρ0, a share (0.4 in the paper, 0.5 in the authors' README).
    p: "behaviour" is π_behav(a) (the paper, eq. 8), "one" the authors' code.
    order: which bound moves first: c_high ("paper") or c_low ("code").
    dual_clip: c > 1 also zeroes A<0 with r>c, 3 in the authors' code; None switches it off.
    low_start, low_end, low_step, high_start, high_end, high_step: ratios.
    Metrics: bapo_low, bapo_high (ratios) and bapo_positive_share (ρ at those bounds).
    """

    positive_share: float = number(0.4, low=0.0, high=1.0)
    p: Literal["behaviour", "one"] = "behaviour"
    order: Literal["paper", "code"] = "paper"
    dual_clip: float | None = number(None, low=1.0)
    low_start: float = number(0.6, low=0.0)
    low_end: float = number(0.9, low=0.0)
    low_step: float = number(0.02, low=1e-6)
    high_start: float = number(1.2, low=0.0)
    high_end: float = number(3.0, low=0.0)
    high_step: float = number(0.05, low=1e-6)

    scope = "batch"

    def walk(self) -> list[tuple[float, float]]:
        """The states (c_low, c_high) that the loop passes if ρ stays below the share, in order."""
        lows = _steps(self.low_start, self.low_end, self.low_step)
        highs = _steps(self.high_start, self.high_end, self.high_step)
        if self.order == "code":
            return [(low, highs[0]) for low in lows] + [(lows[-1], high) for high in highs[1:]]
        if len(lows) == 1:
            return [(lows[0], highs[0])]
        return [(lows[0], high) for high in highs] + [(low, highs[-1]) for low in lows[1:]]

    def bounds(self, stats: TokenStats) -> tuple[Tensor, Tensor, Tensor]:
        """c_low, c_high and ρ at the end of the loop, 0-d float64.

        It ends at the first state of the walk whose ρ is not below the share, or at the last one; ρ of all of them is
        found at once, so that nothing waits for the device.
        """
        advantage, ratio = stats.token_advantages.double().reshape(-1), stats.ratio.double().reshape(-1)
        if self.p == "behaviour":
            advantage = advantage * stats.behaviour.double().exp().reshape(-1)
        good, bad, walk = advantage.clamp(min=0), (-advantage).clamp(min=0), self.walk()
        positive = {high: torch.dot(good, ratio.clamp(max=high)) for high in {high for _, high in walk}}
        negative = {low: torch.dot(bad, ratio.clamp(min=low)) for low in {low for low, _ in walk}}
        share = torch.stack([positive[high] / (positive[high] + negative[low]) for low, high in walk])
        # P + Q = 0 gives NaN, which is not below the share: the loop ends where it starts.
        steps = (share < self.positive_share).long().cumprod(0).sum().clamp(max=len(walk) - 1)
        low, high = (ratio.new_tensor(bound).take(steps) for bound in zip(*walk, strict=True))
        return low, high, share.take(steps)

    def weights(self, stats: TokenStats) -> TokenWeights:
        low, high, share = self.bounds(stats)
        metrics = {"bapo_low": low, "bapo_high": high, "bapo_positive_share": share}
        kept = ~clipped(stats.ratio, stats.advantage, low, high, self.dual_clip)
        return weigh(stats, stats.ratio, kept=kept, metrics=metrics)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        low, high = weights.metrics["bapo_low"], weights.metrics["bapo_high"]
        dual = None if self.dual_clip is None else low.new_tensor(self.dual_clip)
        return clip(stats.ratio, stats.advantage, low, high, dual) * stats.advantage


def _steps(start: float, end: float, step: float) -> list[float]:
    """start, start + step, … ≤ end, counted in integers: adding 0.02 in floats would stop short of 0.9."""
    return [start + step * i for i in range(max(0, round((end - start) / step * 1e6) // 10**6) + 1)]
