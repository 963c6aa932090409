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
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self.name] = self.compute(instance)
        return value


MANY = 8192
"""Values from which a pass over them takes longer than to call it, on a CPU."""

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

    # The speed of a loss is the number of operations on a small batch, and of passes over [B,T] on a large
    # one. Measured on a CPU, a comparison or a `where` costs five to ten passes of arithmetic, so what can be
    # a sign, a clamp or a product below is one, and nothing is made twice or before it is asked for.

    @once
    def dtype(self) -> torch.dtype:
        """The dtype of logp_current, in which weights and loss are computed."""
        return self.logp_current.dtype

    def used(self, values: Tensor) -> Tensor:
        """values, [B,T] or [B,1], as [B,T] with 0 outside the mask, detached; NaN there has no effect."""
        values = values.detach()
        if self.few or values.dtype != self.dtype:
            return torch.where(self.mask, values, self.zero)
        # `where` as a bitwise and: four operations for one, and yet a quarter of its time on many values. A
        # product would not do, for NaN · 0 is NaN.
        return (values.view(self.bits.dtype) & self.bits).view(values.dtype)

    def cast(self, values: Tensor) -> Tensor:
        """values in `dtype`."""
        # Asked first: `to` takes as long to find that it has nothing to do as a small kernel does.
        return values if values.dtype == self.dtype else values.to(self.dtype)

    def difference(self, upper: Tensor, lower: Tensor) -> Tensor:
        """upper − lower in float64, [B,T], 0 outside the mask; detached."""
        return self.used(upper).double() - self.used(lower).double()

    @once
    def few(self) -> bool:
        """Whether a pass over the tokens takes less than to call it."""
        return self.mask.numel() < MANY

    @once
    def zero(self) -> Tensor:
        """0 in `dtype`, 0-d."""
        return torch.zeros((), dtype=self.dtype, device=self.mask.device)

    @once
    def bits(self) -> Tensor:
        """The mask as all ones or all zeros, [B,T], in integers as wide as `dtype`."""
        return self.mask.to(INTEGERS[self.dtype]).neg_()

    def attached(self) -> Tensor:
        """`logp`, and where the tokens are few, with the graph of logp_current: for a loss to lean on."""
        if not self.few:
            return self.logp
        values = torch.where(self.mask, self.logp_current, self.zero)
        self.__dict__["logp"] = values.detach()
        return values

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
        return self.cast(self.logp - self.behaviour)

    @once
    def log_ratio64(self) -> Tensor:
        """l as a float64 difference, [B,T]: what sums that decide masks are made of."""
        return self.logp.double() - self.behaviour

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
        """A in `dtype`, detached, for broadcasting: [B,1] if given as [B], else [B,T].

        Outside the mask, so in a row without a valid token, it is as it was given.
        """
        advantages = self.cast(self.advantages.detach())
        return advantages if advantages.dim() == 2 else advantages.unsqueeze(1)

    @once
    def token_advantages(self) -> Tensor:
        """A per token, [B,T] in `dtype`, 0 outside the mask; detached."""
        return self.used(self.advantage)

    @once
    def sign(self) -> Tensor:
        """Sign of A, [B,1] or [B,T] as `advantage`; that of a NaN is 0."""
        return self.advantage.sign()

    @once
    def lengths(self) -> Tensor:
        """Valid tokens of each row, [B] int32."""
        return self.mask.sum(dim=1, dtype=torch.int32)

    @once
    def divisors(self) -> Tensor:
        """The same for dividing by, [B,1]: 1 for an empty row."""
        return self.lengths.clamp(min=1)[:, None]

    @once
    def count(self) -> Tensor:
        """N = |V|, 0-d float64."""
        return (torch.count_nonzero(self.mask) if self.few else self.lengths.sum()).double()

    @once
    def outward(self) -> Tensor:
        """|l| of the trust-region tokens, [B,T] float64, 0 elsewhere: how far each has moved where A pushes
        it.

        Squares are M2. +Inf is held at LARGE: times a zero advantage it would be NaN.
        """
        return self.log_ratio64.clamp(max=LARGE).mul_(self.sign).clamp_(min=0)

    @once
    def trust_region_count(self) -> Tensor:
        """|T|, 0-d float64."""
        return self.outward.sign().sum()

    @once
    def trust_region(self) -> Tensor:
        """T = V ∩ ((A>0 and l>0) or (A<0 and l<0)), [B,T] bool: the only tokens that M2PO may mask."""
        return self.outward > 0

    @once
    def poison(self) -> Tensor:
        """A finite number, but NaN or −Inf if a valid token has a NaN log-prob or a current one of −Inf; 0-d.

        Zero times it is added to the denominator, so that no rule can silently drop such a token. A behaviour
        log-prob of −Inf (l = +Inf) is legal: the clamp bounds it.
        """
        poison = self.log_ratio.sum().clamp(max=0)
        for extra in (self.logp_proximal, self.logp_engine):
            if extra is not None:
                poison = poison + self.used(extra).sum().clamp(-1, 1)
        return poison

    def exp(self, log_ratio: Tensor) -> Tensor:
        """exp(clamp(log_ratio, ±20)) in `dtype`, any shape: the one place where ratios are made."""
        return self.cast(log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)).exp_()

    def sequence_log_ratio(self, reduction: Literal["mean", "sum"]) -> Tensor:
        """Mean or sum of l over each row's valid tokens, [B,1] float64, unclamped; 0 for an empty row."""
        total = self.log_ratio.sum(dim=1, keepdim=True, dtype=torch.float64)
        return total if reduction == "sum" else total / self.divisors

    def sequence_advantage(self, method: str) -> Tensor:
        """One A a row, [B,1]; raises ValueError if [B,T] advantages vary within a row's valid tokens.

        Asking costs a synchronisation, so it is asked only of [B,T] advantages: pass [B] where that matters.
        """
        if self.advantages.dim() == 1:
            return self.advantage
        if self.mask.numel() == 0:
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
