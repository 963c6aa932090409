"""From a method's weights to the loss that all methods share.

Every method here has the policy gradient (1/D) Σ (w·A + c)·∇log π with w and c free of gradient, so the loss is one
weighted negative log-likelihood, written once (`weighted_nll`). D is the aggregation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from algorithms.aggregation import row_scale
from algorithms.token_stats import TokenStats, once


@dataclass(frozen=True, eq=False)
class TokenWeights:
    """A method's answer for each token, detached, [B,T]; w and c in the dtype of logp_current, 0 outside the
    mask.

    weights: w, 0 where masked. offsets: c. kept: valid and not zeroed by the rule. counted: the tokens that
    count in D (the mask, save for M2PO's `areal`). changed: valid tokens whose weight the rule set, zeroed
    ones included. metrics: 0-d tensors peculiar to the method. Made by `weigh`.
    """

    weights: Tensor
    offsets: Tensor
    kept: Tensor
    counted: Tensor
    changed: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    @once
    def raw(self) -> Tensor:
        """w as the rule left it, [B,T] or [B,1], any value outside the mask: enough for the loss."""
        return self.weights

    @once
    def raw_offsets(self) -> Tensor | None:
        """c in the same way; None: none."""
        return self.offsets

    @once
    def raw_changed(self) -> Tensor | None:
        """Where the rule set the weight, in the same way; None: nowhere."""
        return self.changed

    def rows(self, start: int, stop: int) -> "TokenWeights":
        """The weights of rows start … stop − 1, for a learner that splits the mini-batch."""
        part = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name != "metrics"}
        return TokenWeights(**part, metrics=self.metrics)


class _Weighed(TokenWeights):
    """What `weigh` makes: TokenWeights of which nothing is masked, compared or widened before it is read."""

    stats: TokenStats
    raw_kept: Tensor | None

    @once
    def weights(self) -> Tensor:
        return self.stats.used(self.raw)

    @once
    def offsets(self) -> Tensor:
        if self.raw_offsets is not None:
            return self.stats.used(self.raw_offsets)
        return self.stats.zero.expand(self.counted.shape)

    @once
    def kept(self) -> Tensor:
        return self.counted if self.raw_kept is None else self.counted & self.raw_kept

    @once
    def changed(self) -> Tensor:
        return torch.zeros_like(self.counted) if self.raw_changed is None else self.counted & self.raw_changed


def weigh(
    stats: TokenStats,
    weights: Tensor,
    *,
    kept: Tensor | None = None,
    changed: Tensor | None = None,
    offsets: Tensor | None = None,
    metrics: Mapping[str, Tensor] | None = None,
) -> TokenWeights:
    """Build TokenWeights from a rule's raw output.

    weights: [B,T] or [B,1] in the dtype of logp_current, finite wherever the log-probs are, any value where
    dropped or padded. kept: bool, where the rule does not zero. changed: bool, where it sets the weight to
    something else. offsets: [B,T].
    """
    if kept is not None:
        weights = weights * kept
        changed = ~kept if changed is None else ~kept | changed
    made = object.__new__(_Weighed)
    made.__dict__.update(
        stats=stats,
        raw=weights,
        raw_kept=kept,
        raw_offsets=offsets,
        raw_changed=changed,
        counted=stats.mask,
        metrics=metrics or {},
    )
    return made


def clip_fraction(stats: TokenStats, weights: TokenWeights) -> Tensor:
    """Share of the valid tokens on which the rule acted, 0-d: the one metric that every peer logs."""
    changed = weights.raw_changed
    if changed is None:
        return stats.zero / stats.count
    if stats.few or changed.shape == stats.mask.shape:
        return torch.count_nonzero(stats.mask & changed) / stats.count
    return (stats.lengths[:, None] * changed).sum() / stats.count  # one answer a row


def coefficients(
    weights: TokenWeights,
    stats: TokenStats,
    mode: str,
    max_length: int | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """(w·A + c)/D for every token, [B,T], detached: all that the loss needs, so rows of it may be used apart.

    mode, max_length, total: as in `aggregation.row_scale`. NaN everywhere if a valid log-prob is (see
    `poison`).
    """
    known = stats if weights.counted is stats.mask else None
    scale = row_scale(weights.counted, mode, max_length, total, known)
    scale = torch.add(scale, stats.poison, alpha=0)  # 0 · NaN and 0 · Inf are NaN
    terms = weights.raw * stats.advantage
    if weights.raw_offsets is not None:
        terms = terms + weights.raw_offsets
    # A 0-d scale takes the dtype of what it multiplies; one a row does not.
    return stats.used(terms.mul_(scale if scale.dim() == 0 else stats.cast(scale)))


class _GivenGradient(torch.autograd.Function):
    """Σ coefficients·values, whose gradient in logp is the coefficients: one pass where autograd would take
    five.
    """

    @staticmethod
    def forward(ctx: Any, logp: Tensor, coefficients: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(coefficients)
        return torch.dot(coefficients.reshape(-1), values.reshape(-1)).neg_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * -grads[0], None, None


def weighted_nll(logp: Tensor, coefficients: Tensor, values: Tensor | None = None) -> Tensor:
    """−Σ coefficient·log π, 0-d, differentiable once in logp [B,T]; where a coefficient is 0, logp may be
    anything.

    Sums over micro-batches to the loss of the mini-batch, since the coefficients carry the denominator.
    values: logp with numbers in the place of whatever lies outside the mask (`TokenStats.logp`), where that
    is at hand.
    """
    if values is not None and values.requires_grad:
        return -(coefficients * values).sum()
    if values is None:
        values = torch.where(coefficients != 0, logp.detach(), 0.0)
    return _GivenGradient.apply(logp, coefficients, values)
