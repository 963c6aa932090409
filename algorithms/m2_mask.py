"""The masks of M2PO's variants: the largest value of M2 that may stay.

Each rule answers with a cap, 0-d float64; tokens of its region with M2 above it are masked, and Inf masks none. A cap
rather than a list of tokens: equal values are kept or masked together, and the answer can depend on no order of tokens,
micro-batches or ranks. Sums run in float64 over the *sorted* values for the same reason. What lies outside the region
comes as 0, hence is sorted first and adds nothing, so that neither a selection nor a count has to leave the device.

Every rule takes
m2: [B,T] float64, nats², squared log-ratio of the tokens of the region, 0 elsewhere.
count: 0-d float64, number of tokens in the region.
threshold: τ, nats².
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor, float], Tensor]
"""(m2, count, threshold) → cap."""

SURELY_UNDER = 1 - 1e-9
"""Only a mean under this share of τ skips the sort: nearer, an unsorted sum may round to the wrong side."""


def surely_within(m2: Tensor, count: Tensor, threshold: float) -> bool:
    """Whether the mean of M2 is so far under τ that no order of summation could say otherwise; or nothing is there.

    Waits for the device: the one synchronisation of M2PO.
    """
    return m2.numel() == 0 or bool(m2.sum() / count.clamp(min=1) < threshold * SURELY_UNDER)


def paper(m2: Tensor, count: Tensor, threshold: float) -> Tensor:
    """Largest value of M2 that Algorithm 1 of arXiv 2510.01161 keeps, 0 if even the smallest exceeds τ.

    Its loop masks the largest while the mean of the rest exceeds τ. That keeps a prefix of the sorted values, and
    prefix means do not decrease, so the cap is the largest value whose prefix mean, ties included, is ≤ τ.
    """
    ordered, rank = _ascending(m2, count)
    return _largest(ordered, _running(ordered) / rank <= threshold)


def areal(m2: Tensor, count: Tensor, threshold: float) -> Tensor:
    """Largest value that AReaL's rule keeps: as `paper` with strict <, but the smallest value is always kept."""
    ordered, rank = _ascending(m2, count)
    smallest = torch.where(rank == 1, ordered, 0.0).amax()
    return torch.maximum(_largest(ordered, _running(ordered) / rank < threshold), smallest)


def released(m2: Tensor, count: Tensor, threshold: float) -> Tensor:
    """Cap of the authors' code: one data value below the v at which the mean of min(M2, v) reaches τ.

    0 if the smallest value is already too much; Inf, with their tolerance of 1e-12, if the mean is within τ.
    """
    ordered, rank = _ascending(m2, count)
    total = _running(ordered)
    below = total + (count - rank) * ordered < count * threshold  # the left side does not decrease
    within = total[-1] / count <= threshold + 1e-12
    return torch.where(within, math.inf, torch.where(below, ordered, 0.0).amax())


def all_tokens_mean(
    m2: Tensor, count: Tensor, threshold: float, rest: Tensor, rest_count: Tensor
) -> tuple[Tensor, Tensor]:
    """Cap that masks the fewest of the region, largest first, until the mean over all remaining valid tokens is < τ.

    rest, rest_count: m2 and count of the valid tokens outside the region.
    Returns the cap, 0 if the whole region has to be masked, and whether that reaches τ (0-d bool).
    """
    base = _running(_ascending(rest, rest_count)[0])[-1]
    ordered, rank = _ascending(m2, count)
    mean = (base + _running(ordered)) / (rest_count + rank)
    cap = _largest(ordered, (rank > 0) & (mean < threshold))
    return cap, (cap > 0) | (base / rest_count.clamp(min=1) < threshold)


def describe(cap: Tensor) -> dict[str, Tensor]:
    """The metric of a cap: `m2_cap`, nats², NaN if every token may stay."""
    return {"m2_cap": torch.where(cap == math.inf, math.nan, cap)}


def _ascending(m2: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The values in ascending order, [B·T], and their ranks: 1 … count in the region, ≤ 0 for the zeros before it."""
    values = m2.reshape(-1)
    # On a CPU numpy's vectorised sort takes a twentieth of the time of torch's: 0.4 for 8 ms at 128×1024.
    ordered = torch.from_numpy(np.sort(values.numpy())) if values.device.type == "cpu" else values.sort().values
    return ordered, torch.arange(1 - len(ordered), 1, dtype=ordered.dtype, device=ordered.device) + count


def _largest(ordered: Tensor, allowed: Tensor) -> Tensor:
    """The largest sorted value at which `allowed` holds with all its ties included; 0 if there is none."""
    last_of_ties = torch.nn.functional.pad(ordered[1:] != ordered[:-1], (0, 1), value=True)
    return torch.where(allowed & last_of_ties, ordered, 0.0).amax()


def _running(ordered: Tensor) -> Tensor:
    """Running sums [N], on the CPU: a GPU adds one long row in an order that differs from run to run."""
    return ordered.cpu().cumsum(0).to(ordered.device)
