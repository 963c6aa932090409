"""Decoupled PPO: clip against the policy at the start of the step, and correct for the one that sampled."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from algorithms.grpo import clip, clipped
from algorithms.importance import Bounded, bound
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh
from algorithms.token_stats import LARGE


@dataclass(frozen=True)
class Decoupled(Algorithm):
    """w = w_b·r_p, r_p = π_θ/π_prox under PPO's sign rule, w_b = π_prox/π_behav bounded (arXiv 2505.24298).

    Differs from GRPO in the centre of the clip: staleness moves w_b, only this step's updates move r_p.
    epsilon_low, epsilon_high: of the clip on r_p.
    mode: what becomes of w_b: "mask" (0 over weight_cap; AReaL), "truncate" (min(w_b, weight_cap): TIS as published) or
    "band" (0 outside [weight_low, weight_high]: IcePop as published).
    weight_cap: None means 5 for mask, 2 for truncate.
    weight_low, weight_high: for band.
    proximal: "recomputed" takes logp_proximal; "interpolated" puts it between behaviour and current by staleness d in
    updates, log π_prox = log π_behav + max(0, 1 − proximal_lag/d)·l (AReaL's loglinear approximation).
    proximal_lag: updates that the interpolated proximal policy is behind the current one.
    """

    epsilon_low: float = number(0.2, low=0.0)
    epsilon_high: float = number(0.2, low=0.0)
    mode: Literal["mask", "truncate", "band"] = "mask"
    weight_cap: float | None = number(None, low=0.0)
    weight_low: float = number(0.5, low=0.0)
    weight_high: float = number(5.0, low=0.0)
    proximal: Literal["recomputed", "interpolated"] = "recomputed"
    proximal_lag: float = number(1.0, low=0.0)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logp_proximal" if self.proximal == "recomputed" else "staleness"})

    def log_ratios(self, stats: TokenStats) -> tuple[Tensor, Tensor]:
        """log w_b and log r_p, each [B,T] float64, unclamped; they add up to l."""
        if self.proximal == "recomputed":
            proximal = stats.require("logp_proximal", "decoupled")
            behind = stats.difference(proximal, stats.logp_behaviour)
            return behind, stats.difference(stats.logp_current, proximal)
        staleness = stats.masked(stats.require("staleness", "decoupled proximal=interpolated").double())
        # At d = 0 all three policies are one; the floor only keeps 0/0 away.
        share = (1 - self.proximal_lag / staleness.clamp(min=1e-9)).clamp(min=0)
        log_ratio = stats.log_ratio64.clamp(-LARGE, LARGE)
        behind = share * log_ratio
        return behind, log_ratio - behind

    def bounded(self, log_weight: Tensor, stats: TokenStats) -> Bounded:
        """w_b as `mode` bounds it."""
        ratio = stats.exp(log_weight)
        if self.mode == "band":
            return bound(ratio, "band", self.weight_low, self.weight_high)
        if self.mode == "truncate":
            return bound(ratio, "truncate", 0.0, 2.0 if self.weight_cap is None else self.weight_cap)
        return bound(ratio, "band", 0.0, 5.0 if self.weight_cap is None else self.weight_cap)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of r_p."""
        return 1 - self.epsilon_low, 1 + self.epsilon_high

    def parts(self, stats: TokenStats) -> tuple[Bounded, Tensor]:
        """w_b bounded and r_p, [B,T] each."""
        log_weight, log_ratio = self.log_ratios(stats)
        return self.bounded(log_weight, stats), stats.exp(log_ratio)

    def weights(self, stats: TokenStats) -> TokenWeights:
        (weight, kept, changed), ratio = self.parts(stats)
        outside = clipped(ratio, stats.advantage, *self.bounds)
        return weigh(stats, weight * ratio, kept=kept & ~outside, changed=changed)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        bounded, ratio = self.parts(stats)
        return bounded.weight * clip(ratio, stats.advantage, *self.bounds) * stats.advantage
