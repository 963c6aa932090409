"""What a stabiliser is: a pure function from token statistics to per-token weights, under one shared loss.

Every method here has the policy gradient (1/D) Σ (w·A + c)·∇log π with w and c free of gradient, so the loss
is one weighted negative log-likelihood, written once (`weighted_nll`). Notation: l = logp_current −
logp_behaviour per token, r = exp(l) (current policy against the policy that sampled the token), A the
advantage, D the aggregation.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from difflib import get_close_matches
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args, get_origin

import torch
from torch import Tensor

from algorithms.aggregation import check_mode, row_scale

LOG_RATIO_BOUND = 20.0
"""r = exp(clamp(l, ±20)): bounds the weight of a wild token and, unlike a cap in the loss.

Keeps its gradient.
"""


@dataclass(frozen=True, eq=False)
class TokenStats:
    """The statistics of one mini-batch of B responses padded to T tokens; all a method may look at.

    logp_current: [B,T] float32 or float64, log π_θ of the sampled tokens; may require grad.
    logp_behaviour: [B,T] float, under the policy that sampled them, in the trainer's numerics.
    advantages: [B] or [B,T] float. mask: [B,T] bool, True on valid response tokens; whatever stands elsewhere
    (NaN included) is never used. logp_proximal: [B,T], under the policy at the start of the step. staleness:
    [B] or [B,T], in updates. logp_engine: [B,T], as the inference engine reported it. Values are not
    range-checked: only differences of log-probs matter. Raises ValueError on a wrong shape or dtype.
    """

    logp_current: Tensor
    logp_behaviour: Tensor
    advantages: Tensor
    mask: Tensor
    logp_proximal: Tensor | None = None
    staleness: Tensor | None = None
    logp_engine: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.logp_current.shape)
        if len(shape) != 2 or self.logp_current.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"logp_current is {self.logp_current.dtype} {shape}; expected float32 or float64 [B,T]: "
                "gather log-probs into one padded row per response, and cast half precision up"
            )
        if self.mask.dtype != torch.bool or tuple(self.mask.shape) != shape:
            raise ValueError(f"mask is {self.mask.dtype} {tuple(self.mask.shape)}; expected bool {shape}")
        for name in ("logp_behaviour", "logp_proximal", "logp_engine"):
            value = getattr(self, name)
            if value is not None and (tuple(value.shape) != shape or not value.is_floating_point()):
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}; expected float {shape}")
        for name in ("advantages", "staleness"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) not in (shape, shape[:1]):
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape[:1]} or {shape}")
        if not self.advantages.is_floating_point():
            raise ValueError(f"advantages are {self.advantages.dtype}; expected a float dtype")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logp_current, in which weights and loss are computed."""
        return self.logp_current.dtype

    def difference(self, upper: Tensor, lower: Tensor) -> Tensor:
        """upper − lower in float64, [B,T], exactly 0 outside the mask (NaN there has no effect); detached."""
        # where, not a product with the mask: NaN · 0 is NaN.
        gap = upper.detach().double() - lower.detach().double()
        return gap.masked_fill_(self.padding, 0.0)

    @cached_property
    def padding(self) -> Tensor:
        """[B,T] bool, the complement of the mask."""
        return ~self.mask

    @cached_property
    def log_ratio(self) -> Tensor:
        """l, [B,T] float64, unclamped, 0 outside the mask; detached."""
        return self.difference(self.logp_current, self.logp_behaviour)

    @cached_property
    def log_ratio_sum(self) -> Tensor:
        """Σ l over the valid tokens, 0-d float64."""
        return self.log_ratio.sum()

    @cached_property
    def ratio(self) -> Tensor:
        """r = exp(clamp(l, ±20)), [B,T] in `dtype`, 1 outside the mask; detached."""
        return self.exp(self.log_ratio)

    @cached_property
    def token_advantages(self) -> Tensor:
        """A per token, [B,T] in `dtype`, 0 outside the mask; detached."""
        advantages = self.advantages.detach().to(self.dtype)
        if advantages.dim() == 1:
            advantages = advantages[:, None].expand(self.mask.shape)
        return advantages.masked_fill(self.padding, 0.0)

    @cached_property
    def lengths(self) -> Tensor:
        """Valid tokens of each row, [B] int64."""
        return self.mask.sum(dim=1)

    @cached_property
    def count(self) -> Tensor:
        """N = |V|, at least 1, 0-d float64."""
        return self.lengths.sum().clamp(min=1).double()

    @cached_property
    def logp(self) -> Tensor:
        """logp_current, detached, 0 outside the mask, [B,T]."""
        return self.logp_current.detach().masked_fill(self.padding, 0.0)

    @cached_property
    def trust_region(self) -> Tensor:
        """T = V ∩ ((A>0 and l>0) or (A<0 and l<0)), [B,T] bool: the only tokens that M2PO may mask."""
        # Signs, not the product A·l: it would underflow, and a product of two dtypes is slow.
        return (self.token_advantages.sign() * self.log_ratio.sign().to(self.dtype)) > 0

    @cached_property
    def poison(self) -> Tensor:
        """1, or NaN if a valid token has a NaN log-prob or a current one of −Inf; 0-d in `dtype`.

        Multiplied into the coefficients, so that no rule can silently drop such a token. A behaviour log-prob
        of −Inf (l = +Inf) is legal: the clamp bounds it.
        """
        sound = self.log_ratio_sum > -math.inf  # False for NaN too
        for extra in (self.logp_proximal, self.logp_engine):
            if extra is not None:
                sound = sound & ~extra.detach().masked_fill(self.padding, 0.0).sum().isnan()
        return torch.where(sound, 1.0, math.nan).to(self.dtype)

    def exp(self, log_ratio: Tensor) -> Tensor:
        """exp(clamp(log_ratio, ±20)) in `dtype`, any shape: the one place where ratios are made."""
        bounded = log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        return bounded.to(self.dtype).exp_()

    def sequence_log_ratio(self, reduction: Literal["mean", "sum"]) -> Tensor:
        """Mean or sum of l over each row's valid tokens, [B,1] float64, unclamped; 0 for an empty row."""
        total = self.log_ratio.sum(dim=1, keepdim=True)
        return total if reduction == "sum" else total / self.lengths[:, None].clamp(min=1)

    def sequence_advantages(self, method: str) -> Tensor:
        """One A a row as [B,1]; raises ValueError if [B,T] advantages vary within a row's valid tokens.

        Asking costs a synchronisation, so it is asked only of [B,T] advantages: pass [B] where that matters.
        """
        if self.advantages.dim() == 1:
            return self.advantages.detach().to(self.dtype)[:, None]
        if self.mask.numel() == 0:
            return self.token_advantages.new_zeros(self.mask.shape[0], 1)
        highest = self.token_advantages.masked_fill(self.padding, -math.inf).amax(dim=1, keepdim=True)
        lowest = self.token_advantages.masked_fill(self.padding, math.inf).amin(dim=1, keepdim=True)
        filled = self.lengths[:, None] > 0
        if bool(((highest > lowest) & filled).any()):
            raise ValueError(
                f"{method} weighs whole sequences, but advantages differ within a row; "
                "pass [B] advantages, or use gspo_token, which takes one per token"
            )
        return highest.masked_fill(~filled, 0.0)

    def require(self, name: str, method: str) -> Tensor:
        """The optional field `name`; raises ValueError if it is None (never a silent stand-in)."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{method} needs TokenStats.{name}, which is None; supply it (see `needs`)")
        return value


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

    def rows(self, start: int, stop: int) -> "TokenWeights":
        """The weights of rows start … stop − 1, for a learner that splits the mini-batch."""
        part = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name != "metrics"}
        return TokenWeights(**part, metrics=self.metrics)


def weigh(
    stats: TokenStats,
    weights: Tensor,
    *,
    dropped: Tensor | None = None,
    changed: Tensor | None = None,
    offsets: Tensor | None = None,
    counted: Tensor | None = None,
    metrics: Mapping[str, Tensor] | None = None,
) -> TokenWeights:
    """Build TokenWeights from a rule's raw output.

    weights: [B,T] or [B,1] in the dtype of logp_current, any value where dropped or padded. dropped: bool,
    where the rule zeroes. changed: bool, where it sets the weight to something else. offsets: [B,T]. Write
    comparisons so that NaN is *not* dropped (`x > cap`, not `~(x <= cap)`).
    """
    kept = stats.mask if dropped is None else stats.mask & ~dropped
    if changed is None:
        acted = stats.mask ^ kept
    else:
        acted = stats.mask & (changed if dropped is None else changed | dropped)
    zeros = torch.zeros((), dtype=stats.dtype, device=stats.mask.device)
    return TokenWeights(
        weights=torch.where(kept, weights, zeros),
        offsets=zeros.expand(stats.mask.shape)
        if offsets is None
        else torch.where(stats.mask, offsets, zeros),
        kept=kept,
        counted=stats.mask if counted is None else counted,
        changed=acted,
        metrics=metrics or {},
    )


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
    scale = row_scale(weights.counted, mode, max_length, total, stats.dtype) * stats.poison
    return torch.addcmul(weights.offsets, weights.weights, stats.token_advantages).mul_(scale)


def weighted_nll(logp: Tensor, coefficients: Tensor) -> Tensor:
    """−Σ coefficient·log π, 0-d, differentiable in logp [B,T]; where a coefficient is 0, logp may be
    anything.

    Sums over micro-batches to the loss of the mini-batch, since the coefficients carry the denominator.
    """
    used = coefficients != 0
    return -(torch.where(used, logp, 0.0) * coefficients).sum()


@dataclass(frozen=True, eq=False)
class LossOutput:
    """loss: 0-d, differentiable in logp_current. The rest as in TokenWeights; metrics: {name: 0-d tensor}."""

    loss: Tensor
    weights: Tensor
    kept: Tensor
    offsets: Tensor
    metrics: dict[str, Tensor]


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

    def weights(self, stats: TokenStats) -> TokenWeights:
        """The method itself: w, c and what was kept, for every token."""
        raise NotImplementedError

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        """The published objective (to be maximised) of each token, [B,T], detached, 0 outside the mask."""
        return weights.weights * stats.token_advantages

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
        assert self.aggregation is not None
        scale = row_scale(weights.counted, self.aggregation, max_length, total, stats.dtype)
        return -(self.objective(stats, weights).sum(dim=1, keepdim=True) * scale).sum()

    def __call__(
        self, stats: TokenStats, *, entropy: Tensor | None = None, max_length: int | None = None
    ) -> LossOutput:
        """Weights, loss and every diagnostic of one whole mini-batch.

        entropy: [B,T] of the current policy in nats, for the entropy metrics. max_length: as in `row_scale`.
        """
        from algorithms.diagnostics import diagnose

        weights = self.weights(stats)
        assert self.aggregation is not None
        loss = weighted_nll(stats.logp_current, coefficients(weights, stats, self.aggregation, max_length))
        metrics = diagnose(stats, weights, entropy)
        metrics["surrogate"] = self.surrogate(stats, weights, max_length)
        return LossOutput(loss, weights.weights, weights.kept, weights.offsets, metrics)


def _check_parameter(method: str, name: str, value: Any, kind: Any, limits: Mapping[str, Any]) -> None:
    """Raise a one-line ValueError if `value` does not fit the annotation `kind` or its range."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            near = get_close_matches(str(value), [str(c) for c in choices], 1, 0.0)[0]
            raise ValueError(
                f"{method}: {name}={value!r} is not one of {', '.join(choices)}; nearest: {near}"
            )
    elif kind is float or kind == float | None:
        if value is None and kind is not float:
            return
        low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{method}: {name}={value!r}; expected a number from {low:g} to {high:g}")
