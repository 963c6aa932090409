"""What a stabiliser is: a pure function from token statistics to per-token weights, under one shared loss.

This is what a method imports: `TokenStats` is what it sees, `weigh` makes its answer, `compose` turns that into a loss
with its metrics.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from algorithms.aggregation import check_mode, row_scale
from algorithms.diagnostics import diagnose
from algorithms.schema import check_parameters, number
from algorithms.token_stats import TokenStats
from algorithms.token_weights import TokenWeights, weigh
from algorithms.weighted_loss import weighted_loss

__all__ = ["Algorithm", "LossOutput", "TokenStats", "TokenWeights", "compose", "measure", "number", "weigh"]


@dataclass(frozen=True)
class Algorithm:
    """Base of every method. A method is a frozen dataclass: its fields are its parameters, and so its schema.

    To write one: give the fields, `scope`, and `weights`. Where the published surrogate is not Σ w·A (the
    value of a masked ratio objective), override `objective` too. See docs/adding-an-algorithm.md.

    aggregation: token_mean | seq_mean_token_mean | seq_mean_token_sum | seq_mean_token_sum_norm; null: as published.
    scope: what the rule must see at once, "token", "sequence" or "batch" (the whole optimizer mini-batch).
    needs: the optional fields of TokenStats that it uses.

    Raises ValueError on a parameter of the wrong type or outside its range.
    """

    _: KW_ONLY
    aggregation: str | None = None

    scope: ClassVar[Any] = "token"
    needs: ClassVar[Any] = frozenset()
    published_aggregation: ClassVar[Any] = "token_mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "aggregation", check_mode(self.aggregation or self.published_aggregation))
        check_parameters(self)

    def weights(self, stats: TokenStats) -> TokenWeights:
        """The method itself: w, c and what was kept, for every token of `stats`."""
        raise NotImplementedError

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        """The published objective (to be maximised) of each token, [B,T], detached; any value outside the mask.

        weights: the method's, for these statistics.
        """
        return weights.weights * stats.advantage

    def surrogate(self, stats: TokenStats, weights: TokenWeights, max_length: int | None = None) -> Tensor:
        """The value of the published loss (to be minimised), 0-d, detached: a metric, comparable with a peer's.

        weights: the method's, for these statistics. max_length: tokens, as in `row_scale`.
        """
        scale = row_scale(weights.counted, str(self.aggregation), max_length).to(stats.dtype)
        return -(torch.where(weights.counted, self.objective(stats, weights), 0.0) * scale).sum()

    def __call__(self, stats: TokenStats, *, max_length: int | None = None) -> "LossOutput":
        """Loss, weights and metrics of one whole mini-batch. max_length: tokens, as in `row_scale`."""
        return compose(self, stats, max_length=max_length)


@dataclass(frozen=True, eq=False)
class LossOutput:
    """What `compose` returns.

    loss: 0-d, differentiable in logp_current.
    token_weights: the method's answer; its weights, kept and offsets ([B,T] each) can be read here too.
    metrics: {name: 0-d}, empty where they were not asked for.
    """

    loss: Tensor
    token_weights: TokenWeights
    metrics: Mapping[str, Tensor]

    @property
    def weights(self) -> Tensor:
        """w, [B,T], 0 where masked."""
        return self.token_weights.weights

    @property
    def kept(self) -> Tensor:
        """Valid and not zeroed by the rule, [B,T] bool."""
        return self.token_weights.kept

    @property
    def offsets(self) -> Tensor:
        """c, [B,T]."""
        return self.token_weights.offsets


def compose(
    method: Algorithm,
    stats: TokenStats,
    *,
    weights: TokenWeights | None = None,
    max_length: int | None = None,
    total: Tensor | None = None,
    metrics: bool = True,
) -> LossOutput:
    """The loss of a method on a mini-batch or a part of it, with its weights and metrics.

    weights: the method's, where a wider scope found them already; None finds them on `stats`.
    max_length: tokens, L_max of Dr. GRPO's denominator; None means T.
    total: [3] int64, `aggregation.totals` of the whole mini-batch where `stats` is a part of it.
    metrics: False leaves them out, for a part that is measured with the whole later.
    Raises ValueError if a field that the method needs is missing.
    """
    weights = method.weights(stats) if weights is None else weights
    loss = weighted_loss(stats, weights, str(method.aggregation), method.needs, max_length, total)
    return LossOutput(loss, weights, measure(method, stats, weights, max_length) if metrics else {})


def measure(
    method: Algorithm, stats: TokenStats, weights: TokenWeights, max_length: int | None = None
) -> dict[str, Tensor]:
    """The metrics of a whole mini-batch, {name: 0-d}: all diagnostics and the surrogate's value.

    weights: the method's. max_length: tokens, as in `compose`.
    """
    return diagnose(stats, weights) | {"surrogate": method.surrogate(stats, weights, max_length)}
