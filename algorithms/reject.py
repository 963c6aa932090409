"""Rejection: leave out tokens or whole sequences whose policy has drifted too far, then train on the rest."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from algorithms.interface import TokenStats, TokenWeights, number
from algorithms.token_stats import LOG_RATIO_BOUND
from algorithms.wrapper import Wrapper


@dataclass(frozen=True, kw_only=True)
class Reject(Wrapper):
    """Masks what a divergence puts out of bounds; the base sees only what is left (verl's rollout rejection).

    Differs from its base in whom it sees, whatever the sign of A; from opsm in that the sign plays no part.
    metric: of each token, with l the log-ratio to the behaviour policy: "k1" l itself, "k2" l²/2, "k3" r − 1 − l, "kl"
    the larger of the two KL divergences of "this token or another" (AReaL's KPop).
    level: "token", or of each sequence its "seq_mean", "seq_sum" or "seq_max".
    ratio_low, ratio_high: bounds of k1, as a ratio: of r, of its geometric mean (seq_mean), of Π r (seq_sum), of every
    r (seq_max). 0.5 and 2 are verl's for Π r. verl's bounds of k1 act on 1/r.
    limit: the largest k2, k3 or kl, nats: 2 in KPop, 0.01 in verl's k3_rs.
    policy: whose l: the "current" policy's, or that of the start of the step ("proximal").
    denominator: whether D counts all "valid" tokens (AReaL) or those "kept" by the rejection (verl).
    Metric: rejected_fraction, of the valid tokens.
    """

    metric: Literal["k1", "k2", "k3", "kl"] = "k1"
    level: Literal["token", "seq_mean", "seq_sum", "seq_max"] = "seq_sum"
    ratio_low: float = number(0.5, low=1e-9)
    ratio_high: float = number(2.0, low=1e-9)
    limit: float = number(2.0, low=0.0)
    policy: Literal["current", "proximal"] = "current"
    denominator: Literal["valid", "kept"] = "valid"

    @property
    def own_scope(self) -> str:
        return "token" if self.level == "token" else "sequence"

    @property
    def own_needs(self) -> frozenset[str]:
        return frozenset({"logp_proximal"} if self.policy == "proximal" else ())

    def divergence(self, stats: TokenStats) -> Tensor:
        """The metric of each token, [B,T] float64, 0 outside the mask."""
        logp = stats.logp_current if self.policy == "current" else stats.require("logp_proximal", "reject")
        log_ratio = stats.difference(logp, stats.logp_behaviour).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        if self.metric == "kl":
            p, q = (value.double().exp().clamp(1e-8, 1 - 1e-8) for value in (stats.masked(logp), stats.behaviour))
            return torch.maximum(binary_kl(p, q), binary_kl(q, p))
        if self.metric == "k1":
            return log_ratio
        return log_ratio.square() / 2 if self.metric == "k2" else log_ratio.expm1() - log_ratio

    def accepted(self, stats: TokenStats) -> Tensor:
        """The valid tokens that are left, [B,T] bool."""
        values, low, high = self.divergence(stats), -math.inf, self.limit
        if self.metric == "k1":
            low, high = math.log(self.ratio_low), math.log(self.ratio_high)
        if self.level in ("seq_mean", "seq_sum"):
            values = values.sum(1, keepdim=True)
        if self.level == "seq_mean":
            values = values / stats.lengths.clamp(min=1)[:, None]
        within = (low <= values) & (values <= high)
        if self.level == "seq_max":
            within = (within | ~stats.mask).all(1, keepdim=True)
        return stats.mask & within

    def weights(self, stats: TokenStats) -> TokenWeights:
        accepted = self.accepted(stats)
        rejected = stats.mask & ~accepted
        inner = self.inner.weights(replace(stats, mask=accepted))
        return replace(
            inner,
            counted=inner.counted if self.denominator == "kept" else inner.counted | rejected,
            changed=inner.changed | rejected,
            metrics={**inner.metrics, "rejected_fraction": rejected.sum() / stats.count},
        )

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        left = replace(stats, mask=self.accepted(stats))
        return torch.where(left.mask, self.inner.objective(left, self.inner.weights(left)), 0.0)


def binary_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q) of "this token or another", nats. p, q: its probabilities, inside (0, 1)."""
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
