"""REINFORCE on stale data: the likelihood gradient without any correction, with or without a quadratic pull."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh
from algorithms.token_stats import LOG_RATIO_BOUND


@dataclass(frozen=True)
class Reinforce(Algorithm):
    """w = 1: what the behaviour policy did is imitated as if the current policy had done it.

    Differs from no_trust_region in that no importance weight corrects for the lag: the baseline of doing nothing.
    With beta > 0 the squared log-ratio pulls back: c = −β·l of the token (verl's `dro`), or −β·Σ l of its sequence on
    every token (DRO as published, arXiv 2405.19107; Kimi k1.5, arXiv 2501.12599). Both sums are clamped to ±20.
    beta: β, advantage per nat (Kimi's τ).
    level: whether the pull sees a token or a sequence.
    """

    beta: float = number(0.0, low=0.0)
    level: Literal["token", "sequence"] = "token"

    @property
    def scope(self) -> str:
        return self.level

    def distance(self, stats: TokenStats) -> Tensor:
        """l of each token, [B,T], or Σ l of each row, [B,1], clamped."""
        log_ratio = stats.log_ratio64 if self.level == "token" else stats.sequence_log_ratio("sum")
        return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).to(stats.dtype)

    def weights(self, stats: TokenStats) -> TokenWeights:
        pull = -self.beta * self.distance(stats).expand_as(stats.mask) if self.beta else None
        return weigh(stats, torch.ones_like(stats.logp), offsets=pull)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        squares = self.distance(stats).square()
        if self.level == "sequence":  # one term a sequence, shared out over its tokens
            squares = squares / stats.lengths.clamp(min=1)[:, None]
        return stats.advantage * stats.logp - self.beta / 2 * squares
