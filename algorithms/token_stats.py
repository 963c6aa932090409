"""TokenStats: all that a method may look at, and the quantities that follow from it, each computed once.

Notation: l = logp_current − logp_behaviour per token, r = exp(clamp(l, ±20)), A the advantage, V the valid tokens.
Whatever is derived here is detached.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0
"""r = exp(clamp(l, ±20)): bounds the weight of an extreme token and still leaves it a gradient."""

LARGE = 1e150
"""Stands in for Inf where Inf − Inf or 0·Inf would be NaN."""


@dataclass(frozen=True, eq=False)
class TokenStats:
    """The statistics of one mini-batch of B responses padded to T tokens.

    logp_current: [B,T] float32 or float64, nats, log π_θ of the sampled tokens; may require grad.
    logp_behaviour: [B,T] float, nats, under the policy that sampled them, in the trainer's numerics.
    advantages: [B] or [B,T] float.
    mask: [B,T] bool, True on valid response tokens; what stands elsewhere (NaN included) is never used.
    logp_proximal: [B,T] float, nats, under the policy at the start of the step.
    logp_engine: [B,T] float, nats, as the inference engine reported it.
    staleness: [B] or [B,T], updates.
    entropy: [B,T] float, nats, of the current policy.
    group: [B] integer, the prompt that each response answers.

    Values are not range-checked: only differences of log-probs matter. Raises ValueError on a wrong shape or dtype.
    """

    logp_current: Tensor
    logp_behaviour: Tensor
    advantages: Tensor
    mask: Tensor
    logp_proximal: Tensor | None = None
    logp_engine: Tensor | None = None
    staleness: Tensor | None = None
    entropy: Tensor | None = None
    group: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.logp_current.shape
        if len(shape) != 2 or self.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"logp_current is {self.dtype} {tuple(shape)}; expected float32 or float64 [B,T]: "
                "gather log-probs into one padded row per response, and cast half precision up"
            )
        if self.mask.dtype != torch.bool or self.mask.shape != shape:
            raise ValueError(f"mask is {self.mask.dtype} {tuple(self.mask.shape)}; expected bool {tuple(shape)}")
        for name in ("logp_behaviour", "logp_proximal", "logp_engine", "entropy"):
            value = getattr(self, name)
            if value is not None and (value.shape != shape or not value.is_floating_point()):
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}; expected float {tuple(shape)}")
        for name in ("advantages", "staleness", "group"):
            value, shapes = getattr(self, name), (shape[:1],) if name == "group" else (shape[:1], shape)
            if value is not None and value.shape not in shapes:
                expected = " or ".join(str(tuple(s)) for s in shapes)
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {expected}")
        if not self.advantages.is_floating_point():
            raise ValueError(f"advantages are {self.advantages.dtype}; expected a float dtype")

    def detached(self) -> "TokenStats":
        """The same statistics without the graph of logp_current."""
        return replace(self, logp_current=self.logp_current.detach())

    # Values on the mask ------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logp_current, in which weights and loss are computed."""
        return self.logp_current.dtype

    def masked(self, values: Tensor) -> Tensor:
        """values as [B,T], detached, with 0 outside the mask, so that a NaN there has no effect.

        values: [B,T], [B,1] or [B].
        """
        return torch.where(self.mask, values.detach() if values.dim() == 2 else values.detach()[:, None], 0.0)

    def difference(self, upper: Tensor, lower: Tensor) -> Tensor:
        """upper − lower, [B,T] float64, 0 outside the mask; detached.

        upper, lower: [B,T] float, nats.
        """
        return self.masked(upper).double() - self.masked(lower)

    @cached_property
    def logp(self) -> Tensor:
        """logp_current, [B,T], 0 outside the mask."""
        return self.masked(self.logp_current)

    @cached_property
    def behaviour(self) -> Tensor:
        """logp_behaviour, [B,T], 0 outside the mask."""
        return self.masked(self.logp_behaviour)

    @cached_property
    def lengths(self) -> Tensor:
        """Valid tokens of each row, [B] int32."""
        return self.mask.sum(dim=1, dtype=torch.int32)

    @cached_property
    def count(self) -> Tensor:
        """N = |V|, 0-d float64."""
        return self.lengths.sum().double()

    # Ratios ------------------------------------------------------------------------------------------

    @cached_property
    def log_ratio(self) -> Tensor:
        """l, [B,T] in `dtype`, unclamped, 0 outside the mask."""
        return (self.logp - self.behaviour).to(self.dtype)

    @cached_property
    def log_ratio64(self) -> Tensor:
        """l as a float64 difference, [B,T], 0 outside the mask: sums that decide masks are made of it."""
        return self.logp.double() - self.behaviour

    @cached_property
    def ratio(self) -> Tensor:
        """r, [B,T] in `dtype`, 1 outside the mask."""
        return self.exp(self.log_ratio)

    def exp(self, log_ratio: Tensor) -> Tensor:
        """exp(clamp(log_ratio, ±20)) in `dtype`: the one place where ratios are made.

        log_ratio: any shape, nats; of a sequence ratio the sum or mean, not its terms.
        """
        return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).to(self.dtype).exp()

    def sequence_log_ratio(self, reduction: Literal["mean", "sum"]) -> Tensor:
        """Mean or sum of l over each row's valid tokens, [B,1] float64, unclamped; 0 for an empty row."""
        total = self.log_ratio.sum(dim=1, keepdim=True, dtype=torch.float64)
        return total if reduction == "sum" else total / self.lengths.clamp(min=1)[:, None]

    # Advantages --------------------------------------------------------------------------------------

    @cached_property
    def advantage(self) -> Tensor:
        """A in `dtype`, for broadcasting: [B,1] if given as [B], else [B,T]; 0 outside the mask and in empty rows."""
        advantages = self.advantages.detach().to(self.dtype)
        if advantages.dim() == 2:
            return self.masked(advantages)
        return torch.where(self.lengths > 0, advantages, 0.0)[:, None]

    @cached_property
    def token_advantages(self) -> Tensor:
        """A of each token, [B,T] in `dtype`, 0 outside the mask."""
        return self.masked(self.advantage)

    def sequence_advantage(self, method: str) -> Tensor:
        """One A a row, [B,1] in `dtype`, 0 for an empty row of [B,T] advantages.

        method: its name, for the message. Raises ValueError if [B,T] advantages vary within a row's valid tokens.
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

    # The trust region of M2PO ------------------------------------------------------------------------

    @cached_property
    def trust_region(self) -> Tensor:
        """T = V ∩ ((A>0 and l>0) or (A<0 and l<0)), [B,T] bool: the only tokens that M2PO may mask."""
        return self.advantage.double() * self.log_ratio64 > 0

    @cached_property
    def trust_region_m2(self) -> Tensor:
        """M2 = l² of the trust-region tokens, [B,T] float64, nats², 0 elsewhere."""
        return torch.where(self.trust_region, self.log_ratio64.square(), 0.0)

    # What is missing or broken -----------------------------------------------------------------------

    def require(self, name: str, method: str) -> Tensor:
        """The optional field `name`; raises ValueError if it is None (never a silent stand-in)."""
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"{method} needs TokenStats.{name}, which is None; supply it (see `needs`)")
        return value

    def has_nan(self, needs: Iterable[str] = ()) -> Tensor:
        """Whether a valid token lacks a number that the loss needs, 0-d bool.

        That is a NaN in logp_current, logp_behaviour or an optional field in `needs`, or a current log-prob of −Inf.
        A behaviour log-prob of −Inf is legal: l = +Inf, and the clamp bounds r.
        needs: names of the optional fields that are looked at.
        """
        total = self.log_ratio.sum()
        broken = total.isnan() | (total == -math.inf)
        for name in needs:
            broken = broken | self.masked(self.require(name, "the method")).sum().isnan()
        return broken
