"""VESPO: a smooth weight on the sequence ratio that peaks near 1 and fades on both sides."""

import math
from dataclasses import dataclass

import torch

from algorithms.importance import Bounded, WeightedLikelihood
from algorithms.interface import TokenStats, number
from algorithms.token_stats import LOG_RATIO_BOUND


@dataclass(frozen=True)
class VESPO(WeightedLikelihood):
    """w = e^(λ − λW)·W^k with W = Π r over the sequence (arXiv 2602.10693; defaults of TRL).

    Differs from sequence-level TIS in that nothing is cut: w(1) = 1, the maximum is at W = k/λ, and a sequence far off
    either way fades to 0. log W is clamped to [log 1e-8, 20].
    k_positive, lambda_positive: k and λ where A ≥ 0.
    k_negative, lambda_negative: where A < 0.
    """

    k_positive: float = number(2.0, low=0.0)
    lambda_positive: float = number(3.0, low=0.0)
    k_negative: float = number(3.0, low=0.0)
    lambda_negative: float = number(2.0, low=0.0)

    scope = "sequence"

    def bounded(self, stats: TokenStats) -> Bounded:
        good = stats.sequence_advantage("vespo") >= 0
        log_product = stats.sequence_log_ratio("sum").clamp(math.log(1e-8), LOG_RATIO_BOUND)

        def exponent(k: float, rate: float) -> torch.Tensor:
            return rate + k * log_product - rate * log_product.exp()

        positive = exponent(self.k_positive, self.lambda_positive)
        negative = exponent(self.k_negative, self.lambda_negative)
        weight = torch.where(good, positive, negative).exp().to(stats.dtype)
        return Bounded(weight, torch.ones_like(good), torch.zeros_like(good))
