"""The masks of M2PO's variants: the largest value of M2 that may stay.

Each rule answers with a cap, 0-d float64; members of the region with M2 above it fall (all of them if it is
negative). A cap rather than a list of tokens: equal values stand or fall together, and the answer can depend
on no order of tokens, micro-batches or ranks. Sums run in float64 over the *sorted* values for the same
reason. What lies outside the region is sorted last as Inf and never admitted, so that no count has to leave
the device.

All take m2 [B,T] float64, region and mask [B,T] bool, threshold τ in nats².
"""

import math

import torch
from torch import Tensor


def paper(m2: Tensor, region: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Algorithm 1 of arXiv 2510.01161 without its loop: the largest value with prefix mean ≤ τ.

    Dropping the largest while the mean of the rest exceeds τ keeps a prefix of the sorted values, and prefix
    means do not decrease. −1 if even the smallest exceeds τ.
    """
    ordered = _ascending(m2, region)
    return _largest(ordered, ordered.cumsum(0) / _ranks(ordered) <= threshold)


def areal(m2: Tensor, region: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """AReaL's rule: as `paper` with strict <, but the smallest value always stays."""
    ordered = _ascending(m2, region)
    cap = _largest(ordered, ordered.cumsum(0) / _ranks(ordered) < threshold)
    return torch.maximum(cap, ordered[0])


def released(m2: Tensor, region: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """The authors' code: the v where the mean of min(M2, v) reaches τ, one value down.

    0 if the smallest value is already too much; Inf, with their tolerance of 1e-12, if the mean is within τ.
    """
    ordered, count = _ascending(m2, region), region.sum()
    total = ordered.cumsum(0)
    above = (count - _ranks(ordered)).clamp(min=0)
    # Nothing lies above the last value: 0 · Inf would be NaN.
    winsorised = total + torch.where(above > 0, above * ordered, 0.0)
    below = (winsorised < count * threshold).long().cumprod(0).bool()
    within = total[(count - 1).clamp(min=0)] / count <= threshold + 1e-12
    return torch.where(within, math.inf, torch.where(below, ordered, 0.0).amax())


def all_tokens_mean(m2: Tensor, region: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Fewest of the region's tokens, largest first, until the mean over all that remain in the mask is < τ.

    −1 if the whole region has to fall, −Inf if even that is not enough.
    """
    harmless = mask & ~region
    count = harmless.sum()
    base = _ascending(m2, harmless).cumsum(0)[(count - 1).clamp(min=0)].where(count > 0, 0.0)
    ordered = _ascending(m2, region)
    cap = _largest(ordered, (base + ordered.cumsum(0)) / (count + _ranks(ordered)) < threshold)
    out_of_reach = (cap < 0) & ~(base / count.clamp(min=1) < threshold)
    return torch.where(out_of_reach, -math.inf, cap)


CAPS = {"paper": paper, "released": released, "all_tokens_mean": all_tokens_mean, "areal": areal}


def _ascending(m2: Tensor, members: Tensor) -> Tensor:
    """M2 of the members in ascending order, then Inf in the place of all others, [B·T]; NaN last."""
    values = m2.masked_fill(~members, math.inf).reshape(-1)
    if values.device.type != "cpu":
        return values.sort().values
    values.numpy().sort()  # in place; vectorised, some twenty times faster than torch's
    return values


def _ranks(ordered: Tensor) -> Tensor:
    return torch.arange(1, ordered.numel() + 1, dtype=ordered.dtype, device=ordered.device)


def _largest(ordered: Tensor, allowed: Tensor) -> Tensor:
    """The largest sorted value at which `allowed` holds with all its ties included; −1 if there is none."""
    complete = torch.ones_like(allowed)
    complete[:-1] = ordered[1:] != ordered[:-1]
    return torch.where(allowed & complete, ordered, -1.0).amax()
