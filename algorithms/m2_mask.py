"""The masks of M2PO's variants: which value of M2 = l² is the largest that may stay.

Each rule answers with a cap v*, 0-d float64 (−1 if nothing may stay), and masks the tokens of its set with M2
> v*. A cap rather than a list of tokens: equal values stand or fall together, and the answer can depend on no
order of tokens, micro-batches or ranks. Sums run in float64 over the *sorted* values for the same reason.
"""

import torch
from torch import Tensor


def ascending(values: Tensor) -> Tensor:
    """values [n] sorted, NaN last.

    On a CPU numpy's vectorised sort is some twenty times faster than torch's.
    """
    if values.device.type != "cpu":
        return values.sort().values
    ordered = values.clone()
    ordered.numpy().sort()
    return ordered


def _largest(ordered: Tensor, allowed: Tensor) -> Tensor:
    """The largest of the sorted values at which `allowed` holds, all its ties included.

    −1 if there is none.
    """
    complete = torch.ones_like(allowed)
    complete[:-1] = ordered[1:] != ordered[:-1]
    return torch.where(allowed & complete, ordered, -1.0).amax()


def _counts(ordered: Tensor) -> Tensor:
    return torch.arange(1, ordered.numel() + 1, dtype=ordered.dtype, device=ordered.device)


def prefix_mean_cap(m2: Tensor, threshold: float, *, strict: bool = False) -> Tensor:
    """Algorithm 1 of arXiv 2510.01161, without its loop: the largest value with prefix mean ≤ threshold (or
    <).

    m2: [n] float64, n ≥ 1. Dropping the largest while the mean of the rest exceeds the threshold keeps a
    prefix of the sorted values, and prefix means do not decrease.
    """
    ordered = ascending(m2)
    mean = ordered.cumsum(0) / _counts(ordered)
    return _largest(ordered, mean < threshold if strict else mean <= threshold)


def winsorised_cap(m2: Tensor, threshold: float) -> Tensor:
    """The authors' released rule: cap v at which the mean of min(M2, v) reaches the threshold, one value
    down.

    m2: [n] float64, n ≥ 1, whose mean exceeds the threshold. 0 if already the smallest value is too much.
    """
    ordered = ascending(m2)
    above = ordered.numel() - _counts(ordered)
    # The last value has nothing above it: 0 · Inf would be NaN.
    winsorised = ordered.cumsum(0) + torch.where(above > 0, above * ordered, 0.0)
    below = (winsorised < ordered.numel() * threshold).cumprod(0).bool()
    return torch.where(below, ordered, 0.0).amax()


def remaining_mean_cap(m2: Tensor, harmless: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Fewest trust-region tokens to remove, largest first, until the mean over all that remain is <
    threshold.

    m2: [n] float64 in the trust region; harmless: [m] outside it, which stay. Returns the cap, and whether
    the threshold cannot be reached (0-d bool): then the cap is −1 and the whole trust region falls.
    """
    base = ascending(harmless).sum()
    ordered = ascending(m2)
    mean = (base + ordered.cumsum(0)) / (harmless.numel() + _counts(ordered))
    cap = _largest(ordered, mean < threshold) if m2.numel() else base.new_full((), -1.0)
    alone = base / max(1, harmless.numel())
    return cap, (cap < 0) & ~(alone < threshold)
