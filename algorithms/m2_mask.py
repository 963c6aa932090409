"""The masks of M2PO's variants: the largest value of M2 that may stay.

Each rule answers with a cap, 0-d float64; tokens of its region with M2 above it fall. A cap rather than a
list of tokens: equal values stand or fall together, and the answer can depend on no order of tokens,
micro-batches or ranks. Sums run in float64 over the *sorted* values for the same reason. What lies outside
the region comes as 0, hence is sorted first and adds nothing, so that neither a selection nor a count has to
leave the device.

All take m2, [B,T] finite float64, 0 outside the region; count, the region's tokens, 0-d; threshold τ in
nats².
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def paper(m2: Tensor, count: Tensor, threshold: float) -> Tensor:
    """Algorithm 1 of arXiv 2510.01161 without its loop: the largest value with prefix mean ≤ τ.

    Dropping the largest while the mean of the rest exceeds τ keeps a prefix of the sorted values, and prefix
    means do not decrease. 0 if even the smallest exceeds τ.
    """
    ordered = _ascending(m2)
    return _largest(ordered, ordered.cumsum(0) / _ranks(ordered, count) <= threshold)


def areal(m2: Tensor, count: Tensor, threshold: float) -> Tensor:
    """AReaL's rule: as `paper` with strict <, but the smallest value always stays."""
    ordered = _ascending(m2)
    smallest = ordered.take((len(ordered) - count).long().clamp(0, len(ordered) - 1))
    cap = _largest(ordered, ordered.cumsum(0) / _ranks(ordered, count) < threshold)
    return torch.maximum(cap, smallest)


def released(m2: Tensor, count: Tensor, threshold: float) -> Tensor:
    """The authors' code: the v where the mean of min(M2, v) reaches τ, one value down.

    0 if the smallest value is already too much; Inf, with their tolerance of 1e-12, if the mean is within τ.
    """
    ordered = _ascending(m2)
    total = ordered.cumsum(0)
    above = len(ordered) - _ranks(ordered, len(ordered))
    below = total + above * ordered < count.double() * threshold  # the left side does not decrease
    within = total[-1] / count <= threshold + 1e-12
    return torch.where(within, math.inf, (ordered * below).amax())


def all_tokens_mean(m2: Tensor, count: Tensor, threshold: float, harmless: Tensor, harmless_count: Tensor) -> Tensor:
    """Fewest of the region's tokens, largest first, until the mean over all valid ones that remain is < τ.

    harmless: M2 of the valid tokens outside the region, 0 elsewhere. 0 if the whole region has to fall, −1 if
    even that is not enough.
    """
    base = _ascending(harmless).cumsum(0)[-1]
    ordered = _ascending(m2)
    ranks = _ranks(ordered, count)
    mean = (base + ordered.cumsum(0)) / (harmless_count + ranks)
    cap = _largest(ordered, (ranks > 0) & (mean < threshold))
    reached = (cap > 0) | (base / harmless_count.clamp(min=1) < threshold)
    return torch.where(reached, cap, -1.0)


CAPS: dict[str, Callable[..., Tensor]] = {
    "paper": paper,
    "released": released,
    "all_tokens_mean": all_tokens_mean,
    "areal": areal,
}


def describe(cap: Tensor, variant: str) -> dict[str, Tensor]:
    """The metrics of a cap: m2_cap, NaN if every token may stay, and for all_tokens_mean m2_unreachable."""
    if variant == "released":
        return {"m2_cap": cap.masked_fill(cap == math.inf, math.nan)}
    if variant == "all_tokens_mean":
        return {"m2_cap": cap.clamp(min=0), "m2_unreachable": (cap < 0).double()}
    return {"m2_cap": cap}


def _ascending(m2: Tensor) -> Tensor:
    """[B,T] → its values in ascending order, NaN last. On a CPU, of the zeros that lead no more than one is kept."""
    if m2.device.type != "cpu":
        return m2.reshape(-1).sort().values
    ordered = m2.reshape(-1).clone()
    values = ordered.numpy()
    values.sort()  # in place; vectorised, some twenty times faster than torch's
    return ordered[max(0, values.searchsorted(0.0, "right") - 1) :]


def _ranks(ordered: Tensor, count: Tensor | int) -> Tensor:
    """1, 2, … count for the last `count` sorted values, 0 and below for what stands before them."""
    return torch.arange(1 - len(ordered), 1, dtype=ordered.dtype, device=ordered.device).add_(count)


def _largest(ordered: Tensor, allowed: Tensor) -> Tensor:
    """The largest sorted value at which `allowed` holds with all its ties included; 0 if there is none."""
    allowed[:-1].logical_and_(ordered[1:] != ordered[:-1])
    return (ordered * allowed).amax()
