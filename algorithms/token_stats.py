"""TokenStats: all that a method may look at, and everything that follows from it, each computed once.

Notation: l = logp_current − logp_behaviour per token, r = exp(l) (current policy against the policy that sampled the
token), A the advantage.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

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

    @once
    def logp(self) -> Tensor:
        """logp_current, detached, 0 outside the mask, [B,T]."""
        return self.used(self.logp_current)

    def attached(self) -> Tensor:
        """`logp`, and where the tokens are few, with the graph of logp_current: for a loss to lean on."""
        if not self.few:
            return self.logp
        values = torch.where(self.mask, self.logp_current, self.zero)
        self.__dict__["logp"] = values.detach()  # or the same would be made again there
        return values

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
