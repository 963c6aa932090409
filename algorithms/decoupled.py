"""Decoupled PPO: clip against the policy at the start of the step, and correct for the one that sampled."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from algorithms.importance import Bounded, bound
from algorithms.interface import Algorithm, TokenStats, TokenWeights, number
from algorithms.registry import make
from algorithms.token_stats import LARGE
from algorithms.wrapper import Wrapper, multiply


@dataclass(frozen=True, kw_only=True)
class Decoupled(Wrapper):
    """w = w_b·r_p, r_p = π_θ/π_prox under PPO's sign rule, w_b = π_prox/π_behav bounded (arXiv 2505.24298).

    Differs from GRPO in the centre of the clip: staleness moves w_b, only this step's updates move r_p.
    base, base_parameters: the method that takes r_p for its ratio, PPO's clip ("grpo") as published.
    epsilon_low, epsilon_high: of PPO's clip on r_p; other bases take theirs from base_parameters.
    mode: what becomes of w_b: "none" (1: the behaviour policy is ignored, the default of slime and of verl's
    synchronous trainer), "mask" (0 over weight_cap; AReaL), "truncate" (min(w_b, weight_cap): TIS as published) or
    "band" (0 outside [weight_low, weight_high]: IcePop as published).
    level: whether w_b is a token's ratio or the product of a sequence's.
    weight_cap: None means 5 for mask, 2 for truncate.
    weight_low, weight_high: for band.
    proximal: "recomputed" takes logp_proximal; "interpolated" puts it between behaviour and current by staleness d in
    updates, log π_prox = log π_behav + max(0, 1 − proximal_lag/d)·l (AReaL's loglinear approximation).
    proximal_lag: updates that the interpolated proximal policy is behind the current one.
    """

    epsilon_low: float = number(0.2, low=0.0)
    epsilon_high: float = number(0.2, low=0.0)
    mode: Literal["none", "mask", "truncate", "band"] = "mask"
    level: Literal["token", "sequence"] = "token"
    weight_cap: float | None = number(None, low=0.0)
    weight_low: float = number(0.5, low=0.0)
    weight_high: float = number(5.0, low=0.0)
    proximal: Literal["recomputed", "interpolated"] = "recomputed"
    proximal_lag: float = number(1.0, low=0.0)

    @cached_property
    def inner(self) -> Algorithm:
        """The base, with ε where that is PPO's clip."""
        clip = {"epsilon_low": self.epsilon_low, "epsilon_high": self.epsilon_high} if self.base == "grpo" else {}
        return make(self.base, **{**clip, **self.base_parameters})

    @property
    def own_scope(self) -> str:
        return self.level

    @property
    def own_needs(self) -> frozenset[str]:
        return frozenset({"logp_proximal" if self.proximal == "recomputed" else "staleness"})

    def logp_proximal(self, stats: TokenStats) -> Tensor:
        """log π_prox, [B,T], nats."""
        if self.proximal == "recomputed":
            return stats.require("logp_proximal", "decoupled")
        staleness = stats.masked(stats.require("staleness", "decoupled proximal=interpolated").double())
        # At d = 0 all three policies are one; the floor only keeps 0/0 away.
        ahead = (self.proximal_lag / staleness.clamp(min=1e-9)).clamp(max=1)
        return stats.logp - ahead * stats.log_ratio64.clamp(-LARGE, LARGE)

    def correction(self, stats: TokenStats, proximal: Tensor) -> Bounded:
        """w_b as `mode` bounds it, [B,T], or [B,1] at level "sequence". proximal: log π_prox."""
        log_weight = stats.difference(proximal, stats.logp_behaviour)
        ratio = stats.exp(log_weight if self.level == "token" else log_weight.sum(1, keepdim=True))
        if self.mode == "none":
            return bound(torch.ones_like(ratio), "truncate", 0.0, 1.0)
        if self.mode == "band":
            return bound(ratio, "band", self.weight_low, self.weight_high)
        if self.mode == "truncate":
            return bound(ratio, "truncate", 0.0, 2.0 if self.weight_cap is None else self.weight_cap)
        return bound(ratio, "band", 0.0, 5.0 if self.weight_cap is None else self.weight_cap)

    def parts(self, stats: TokenStats) -> tuple[Bounded, TokenStats]:
        """w_b bounded, and the statistics in which π_prox stands for the behaviour policy, so that r is r_p."""
        proximal = self.logp_proximal(stats)
        return self.correction(stats, proximal), replace(stats, logp_behaviour=proximal)

    def weights(self, stats: TokenStats) -> TokenWeights:
        bounded, step = self.parts(stats)
        return multiply(stats, self.inner.weights(step), bounded)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        bounded, step = self.parts(stats)
        return bounded.weight * self.inner.objective(step, self.inner.weights(step))
