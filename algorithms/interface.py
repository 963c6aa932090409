"""What a stabiliser is: a pure function from token statistics to per-token weights, under one shared loss.

This is what a method imports: `TokenStats` is what it sees, `weigh` makes its answer, `Algorithm` turns that into a
loss with its metrics.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, get_args, get_origin

import torch
from torch import Tensor

from algorithms.aggregation import check_mode, row_scale
from algorithms.token_stats import LARGE, LOG_RATIO_BOUND, TokenStats
from algorithms.weighted_loss import TokenWeights, clip_fraction, coefficients, weigh, weighted_nll

__all__ = [
    "LARGE",
    "LOG_RATIO_BOUND",
    "Algorithm",
    "LossOutput",
    "Metrics",
    "TokenStats",
    "TokenWeights",
    "clip_fraction",
    "coefficients",
    "number",
    "weigh",
    "weighted_nll",
]


@dataclass(frozen=True, eq=False)
class LossOutput:
    """loss: 0-d, differentiable in logp_current. metrics: {name: 0-d tensor}. The rest as in TokenWeights."""

    loss: Tensor
    metrics: "Metrics"
    token_weights: TokenWeights

    @property
    def weights(self) -> Tensor:
        return self.token_weights.weights

    @property
    def kept(self) -> Tensor:
        return self.token_weights.kept

    @property
    def offsets(self) -> Tensor:
        return self.token_weights.offsets


class Metrics(Mapping[str, Tensor]):
    """{name: 0-d tensor}; what nobody reads is not computed.

    known: those at hand. stages: functions that each return some more, the cheap ones first; each is called
    once, when a name that no earlier one has is asked for. Of two values for a name the earlier one stands.
    """

    def __init__(self, known: Mapping[str, Tensor], *stages: Callable[[], Mapping[str, Tensor]]) -> None:
        self._known = dict(known)
        self._stages = list(stages)

    def _advance(self) -> None:
        self._known = {**self._stages.pop(0)(), **self._known}

    def __getitem__(self, name: str) -> Tensor:
        while name not in self._known and self._stages:
            self._advance()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        while self._stages:
            self._advance()
        return iter(self._known)

    def __len__(self) -> int:
        return len(list(iter(self)))


def number(
    default: float | None = None, *, low: float = -math.inf, high: float = math.inf, required: bool = False
) -> Any:
    """A numeric parameter of a method with its inclusive range; None as default makes None valid too."""
    metadata = {"low": low, "high": high}
    return field(metadata=metadata) if required else field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Algorithm:
    """Base of every method. A method is a frozen dataclass: its fields are its parameters, and so its schema.

    To write one: give the fields, `scope`, and `weights`. Where the published surrogate is not Σ w·A (the
    value of a masked ratio objective), override `objective` too. See docs/adding-an-algorithm.md.

    scope: what the rule must see at once, "token", "sequence" or "batch" (the whole optimizer mini-batch).
    needs: optional fields of TokenStats that it wants. aggregation: one of `aggregation.AGGREGATIONS`; None
    means `published_aggregation`. Raises ValueError on a parameter of the wrong type or outside its range.
    """

    _: KW_ONLY
    aggregation: str | None = None

    scope: ClassVar[Any] = "token"
    needs: ClassVar[Any] = frozenset()
    published_aggregation: ClassVar[Any] = "token_mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "aggregation", check_mode(self.aggregation or self.published_aggregation))
        for f in fields(self):
            if f.name != "aggregation":
                _check_parameter(type(self).__name__, f.name, getattr(self, f.name), f.type, f.metadata)
        for kind in ("ratio", "weight"):
            low, high = getattr(self, f"{kind}_low", 0), getattr(self, f"{kind}_high", 0)
            if low > high:
                raise ValueError(f"{type(self).__name__}: {kind}_low={low} is above {kind}_high={high}")

    def weights(self, stats: TokenStats) -> TokenWeights:
        """The method itself: w, c and what was kept, for every token."""
        raise NotImplementedError

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        """The published objective (to be maximised) of each token, [B,T], detached; any value off the mask."""
        return weights.weights * stats.advantage

    def surrogate(
        self,
        stats: TokenStats,
        weights: TokenWeights | None = None,
        max_length: int | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        """The value of the published loss (to be minimised), 0-d, detached: a metric.

        Comparable with a peer's.
        """
        weights = self.weights(stats) if weights is None else weights
        scale = row_scale(weights.counted, str(self.aggregation), max_length, total).to(stats.dtype)
        objective = torch.where(weights.counted, self.objective(stats, weights), 0.0).sum(dim=1, keepdim=True)
        return -(objective * scale).sum()

    def __call__(
        self, stats: TokenStats, *, entropy: Tensor | None = None, max_length: int | None = None
    ) -> LossOutput:
        """Weights, loss and diagnostics of one whole mini-batch.

        entropy: [B,T] of the current policy in nats, for the entropy metrics. max_length: as in `row_scale`.
        """
        values = stats.attached()
        weights = self.weights(stats)
        scaled = coefficients(weights, stats, str(self.aggregation), max_length)
        loss = weighted_nll(stats.logp_current, scaled, values)

        def diagnostics() -> Mapping[str, Tensor]:
            from algorithms.diagnostics import diagnose

            return diagnose(stats, weights, entropy)

        metrics = Metrics(
            weights.metrics,
            lambda: {"clip_fraction": clip_fraction(stats, weights)},
            lambda: {"surrogate": self.surrogate(stats, weights, max_length)},
            diagnostics,
        )
        return LossOutput(loss, metrics, weights)


def _check_parameter(method: str, name: str, value: Any, kind: Any, limits: Mapping[str, Any]) -> None:
    """Raise a one-line ValueError if `value` does not fit the annotation `kind` or its range."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            near = get_close_matches(str(value), [str(c) for c in choices], 1, 0.0)[0]
            raise ValueError(f"{method}: {name}={value!r} is not one of {', '.join(choices)}; nearest: {near}")
    elif kind is float or kind == float | None:
        if value is None and kind is not float:
            return
        low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{method}: {name}={value!r}; expected a number from {low:g} to {high:g}")
