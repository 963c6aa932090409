"""What a stabiliser is: a pure function from token statistics to per-token weights, under one shared loss.

Every method here has the policy gradient (1/D) Σ (w·A + c)·∇log π with w and c free of gradient, so the loss
is one weighted negative log-likelihood, written once (`weighted_nll`). Notation: l = logp_current −
logp_behaviour per token, r = exp(l) (current policy against the policy that sampled the token), A the
advantage, D the aggregation.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, get_args, get_origin

import torch
from torch import Tensor

from algorithms.aggregation import check_mode, row_scale

LOG_RATIO_BOUND = 20.0
"""r = exp(clamp(l, ±20)): bounds the weight of a wild token and still leaves it a gradient."""


LARGE = 1e150
"""Stands in for Inf where Inf − Inf or Inf · 0 would be NaN; its square is still finite."""


class once:
    """functools.cached_property without its lock, which costs as much as a small kernel."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self.compute.__name__] = self.compute(instance)
        return value


INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


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
        shape = self.logp_current.shape
        if len(shape) != 2 or self.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"logp_current is {self.dtype} {tuple(shape)}; expected float32 or float64 [B,T]: "
                "gather log-probs into one padded row per response, and cast half precision up"
            )
        if self.mask.dtype != torch.bool or self.mask.shape != shape:
            raise ValueError(f"mask is {self.mask.dtype} {tuple(self.mask.shape)}; expected bool {tuple(shape)}")
        for name in ("logp_behaviour", "logp_proximal", "logp_engine"):
            value = getattr(self, name)
            if value is not None and (value.shape != shape or not value.is_floating_point()):
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}; expected float {tuple(shape)}")
        for name in ("advantages", "staleness"):
            value = getattr(self, name)
            if value is not None and value.shape != shape and value.shape != shape[:1]:
                expected = f"{tuple(shape[:1])} or {tuple(shape)}"
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {expected}")
        if not self.advantages.is_floating_point():
            raise ValueError(f"advantages are {self.advantages.dtype}; expected a float dtype")

    # The speed of a loss is the number of passes over [B,T]. Measured on a CPU, a comparison or a `where`
    # costs five to ten passes of arithmetic, so what can be a sign, a clamp or a product below is one, and
    # nothing is made twice.

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logp_current, in which weights and loss are computed."""
        return self.logp_current.dtype

    def used(self, values: Tensor) -> Tensor:
        """values [B,T] with 0 outside the mask, detached; NaN there has no effect."""
        values = values.detach()
        if values.dtype != self.dtype:
            return torch.where(self.mask, values, 0.0)
        # `where` as a bitwise and, which is three times faster; a product would not do, for NaN · 0 is NaN.
        return (values.view(self.bits.dtype) & self.bits).view(values.dtype)

    def difference(self, upper: Tensor, lower: Tensor) -> Tensor:
        """upper − lower in float64, [B,T], 0 outside the mask; detached."""
        return self.used(upper).double() - self.used(lower).double()

    @once
    def bits(self) -> Tensor:
        """The mask as all ones or all zeros, [B,T], in integers as wide as `dtype`."""
        return self.mask.to(INTEGERS[self.dtype]).neg_()

    @once
    def valid(self) -> Tensor:
        """The mask as 0 and 1 in `dtype`, [B,T]."""
        return self.bits.to(self.dtype).neg_()

    @once
    def logp(self) -> Tensor:
        """logp_current, detached, 0 outside the mask, [B,T]."""
        return self.used(self.logp_current)

    @once
    def behaviour(self) -> Tensor:
        """logp_behaviour, detached, 0 outside the mask, [B,T]."""
        return self.used(self.logp_behaviour)

    @once
    def log_ratio(self) -> Tensor:
        """l, [B,T] in `dtype`, unclamped, 0 outside the mask; detached."""
        return (self.logp - self.behaviour).to(self.dtype)

    @once
    def log_ratio64(self) -> Tensor:
        """l as a float64 difference, [B,T]: what sums that decide masks are made of."""
        return self.logp.double() - self.behaviour.double()

    @once
    def log_ratio_sum(self) -> Tensor:
        """Σ l over the valid tokens, 0-d float64."""
        return self.log_ratio.sum(dim=1).double().sum()

    @once
    def ratio(self) -> Tensor:
        """r = exp(clamp(l, ±20)), [B,T] in `dtype`, 1 outside the mask; detached."""
        return self.exp(self.log_ratio)

    @once
    def advantage(self) -> Tensor:
        """A in `dtype`, detached, for broadcasting: [B,1] if given as [B] (0 for an empty row), else [B,T]."""
        advantages = self.advantages.detach().to(self.dtype)
        if advantages.dim() == 2:
            return torch.where(self.mask, advantages, 0.0)
        return torch.where(self.lengths > 0, advantages, 0.0)[:, None]

    @once
    def token_advantages(self) -> Tensor:
        """A per token, [B,T] in `dtype`, 0 outside the mask; detached."""
        return self.advantage * self.valid

    @once
    def lengths(self) -> Tensor:
        """Valid tokens of each row, [B] int64."""
        return self.valid.sum(dim=1).long()  # a sum of bools would first be copied to int64

    @once
    def count(self) -> Tensor:
        """N = |V|, 0-d float64."""
        return self.lengths.sum().double()

    @once
    def outward(self) -> Tensor:
        """|l| of the trust-region tokens, [B,T] float64, 0 elsewhere: how far each has moved where A pushes
        it.

        Squares are M2. +Inf is held at LARGE: times a zero advantage it would be NaN.
        """
        return self.log_ratio64.clamp(max=LARGE).mul_(self.advantage.sign().double()).clamp_(min=0)

    @once
    def trust_region(self) -> Tensor:
        """T = V ∩ ((A>0 and l>0) or (A<0 and l<0)), [B,T] bool: the only tokens that M2PO may mask."""
        return self.outward > 0

    @once
    def poison(self) -> Tensor:
        """0, or NaN if a valid token has a NaN log-prob or a current one of −Inf; 0-d float64.

        Added to the denominator, so that no rule can silently drop such a token. A behaviour log-prob of −Inf
        (l = +Inf) is legal: the clamp bounds it.
        """
        poison = self.log_ratio_sum.clamp(max=0) * 0
        for extra in (self.logp_proximal, self.logp_engine):
            if extra is not None:
                poison = poison + torch.where(self.used(extra).sum().isnan(), math.nan, 0.0)
        return poison

    def exp(self, log_ratio: Tensor) -> Tensor:
        """exp(clamp(log_ratio, ±20)) in `dtype`, any shape: the one place where ratios are made."""
        return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).to(self.dtype).exp_()

    def sequence_log_ratio(self, reduction: Literal["mean", "sum"]) -> Tensor:
        """Mean or sum of l over each row's valid tokens, [B,1] float64, unclamped; 0 for an empty row."""
        total = self.log_ratio.sum(dim=1, keepdim=True, dtype=torch.float64)
        return total if reduction == "sum" else total / self.lengths[:, None].clamp(min=1)

    def sequence_advantage(self, method: str) -> Tensor:
        """One A a row, [B,1]; raises ValueError if [B,T] advantages vary within a row's valid tokens.

        Asking costs a synchronisation, so it is asked only of [B,T] advantages: pass [B] where that matters.
        """
        if self.advantages.dim() == 1 or self.mask.numel() == 0:
            return self.advantage[:, :1]
        highest = self.advantage.masked_fill(~self.mask, -math.inf).amax(dim=1, keepdim=True)
        lowest = self.advantage.masked_fill(~self.mask, math.inf).amin(dim=1, keepdim=True)
        filled = self.lengths[:, None] > 0
        if bool(((highest > lowest) & filled).any()):
            raise ValueError(
                f"{method} weighs whole sequences, but advantages differ within a row; "
                "pass [B] advantages, or use gspo_token, which takes one per token"
            )
        return torch.where(filled, highest, 0.0)

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
    zero = torch.zeros((), dtype=stats.dtype, device=stats.mask.device)
    if kept is None:
        kept = stats.mask
        acted = zero.bool().expand(kept.shape) if changed is None else stats.mask & changed
    else:
        weights = weights * kept
        kept = stats.mask & kept
        acted = stats.mask ^ kept if changed is None else stats.mask ^ kept | stats.mask & changed
    return TokenWeights(
        weights=weights * stats.valid,
        offsets=zero.expand(kept.shape) if offsets is None else offsets * stats.valid,
        kept=kept,
        counted=stats.mask,
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
    lengths = stats.lengths if weights.counted is stats.mask else None
    scale = row_scale(weights.counted, mode, max_length, total, lengths) + stats.poison
    terms = weights.weights * stats.advantage
    if any(weights.offsets.stride()):  # a broadcast zero means that the method has none
        terms += weights.offsets
    return terms.mul_(scale.to(stats.dtype))


class _GivenGradient(torch.autograd.Function):
    """Σ coefficients·values, whose gradient in logp is the coefficients: one pass where autograd would take
    five.
    """

    @staticmethod
    def forward(ctx: Any, logp: Tensor, coefficients: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(coefficients)
        return -torch.dot(coefficients.reshape(-1), values.reshape(-1))

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
    if values is None:
        values = torch.where(coefficients != 0, logp.detach(), 0.0)
    return _GivenGradient.apply(logp, coefficients, values)


@dataclass(frozen=True, eq=False)
class LossOutput:
    """loss: 0-d, differentiable in logp_current. The rest as in TokenWeights; metrics: {name: 0-d tensor}."""

    loss: Tensor
    weights: Tensor
    kept: Tensor
    offsets: Tensor
    metrics: "Metrics"


class Metrics(Mapping[str, Tensor]):
    """{name: 0-d tensor}; what nobody reads is not computed.

    stages: functions that each return some of the metrics, the cheap ones first; each is called once, when a
    name that no earlier stage has is asked for. Of two values for a name the earlier one stands.
    """

    def __init__(self, *stages: Callable[[], Mapping[str, Tensor]]) -> None:
        self._known: dict[str, Tensor] = {}
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
        objective = (self.objective(stats, weights) * weights.counted).sum(dim=1, keepdim=True)
        return -(objective * scale).sum()

    def __call__(
        self, stats: TokenStats, *, entropy: Tensor | None = None, max_length: int | None = None
    ) -> LossOutput:
        """Weights, loss and diagnostics of one whole mini-batch.

        entropy: [B,T] of the current policy in nats, for the entropy metrics. max_length: as in `row_scale`.
        """
        from algorithms.diagnostics import basics, diagnose

        weights = self.weights(stats)
        scaled = coefficients(weights, stats, str(self.aggregation), max_length)
        loss = weighted_nll(stats.logp_current, scaled, stats.logp)

        metrics = Metrics(
            lambda: weights.metrics,
            lambda: basics(stats, weights),
            lambda: {"surrogate": self.surrogate(stats, weights, max_length)},
            lambda: diagnose(stats, weights, entropy),
        )
        return LossOutput(loss, weights.weights, weights.kept, weights.offsets, metrics)


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
