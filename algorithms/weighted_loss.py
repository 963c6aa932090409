"""From a method's weights to the loss that all methods share.

Every method here has the policy gradient (1/D) Σ (w·A + c)·∇log π with w and c free of gradient, so the loss is one
weighted negative log-likelihood, written once. D is the aggregation.
"""

import math

import torch
from torch import Tensor

from algorithms.aggregation import row_scale
from algorithms.token_stats import TokenStats
from algorithms.token_weights import TokenWeights


def coefficients(stats: TokenStats, weights: TokenWeights, scale: Tensor) -> Tensor:
    """(w·A + c)/D of every token, [B,T], detached: minus the gradient of the loss.

    scale: 1/D, as `row_scale` gives it.
    """
    return (weights.weights * stats.advantage + weights.offsets) * scale.to(stats.dtype)


def weighted_loss(
    stats: TokenStats,
    weights: TokenWeights,
    aggregation: str,
    needs: frozenset[str] = frozenset(),
    max_length: int | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """The loss −(1/D) Σ sg(w·A + c)·log π, 0-d, differentiable in stats.logp_current.

    As D may be that of the whole mini-batch, losses of its micro-batches add up to its own.
    weights: the method's.
    aggregation, max_length, total: the mode of `row_scale`, its tokens and its counts.
    needs: optional fields that the method uses. A NaN at a valid place of one of them, as of logp_current or
    logp_behaviour, makes the loss NaN, so that no rule can silently drop such a token.
    """
    scale = row_scale(weights.counted, aggregation, max_length, total)
    scale = torch.where(stats.has_nan(needs), math.nan, scale)
    logp = torch.where(stats.mask, stats.logp_current, 0.0)
    return -(coefficients(stats, weights, scale) * logp).sum()
