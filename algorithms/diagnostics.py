"""Every diagnostic of an update, computed once and the same way for every method."""

import math

import torch
from torch import Tensor

from algorithms.interface import LOG_RATIO_BOUND, TokenStats, TokenWeights, clip_fraction

QUANTILES = (0.01, 0.5, 0.99)
QUANTILE_SAMPLE = 4096
"""Quantiles need a sort: exact up to this many tokens, beyond it over an even stride of them."""


def diagnose(stats: TokenStats, weights: TokenWeights, entropy: Tensor | None = None) -> dict[str, Tensor]:
    """Diagnostics of one mini-batch: {name: 0-d tensor}, NaN where undefined (the recorder writes null).

    entropy: [B,T] of the current policy in nats, where it is known. A method's own metrics come along.
    Nothing here waits for the device. Units and formulas: docs/diagnostics.md.
    """
    return {
        "clip_fraction": clip_fraction(stats, weights),
        **_masks(stats, weights),
        **_divergences(stats, weights),
        **_ratio_quantiles(stats),
        **_entropies(stats, weights, entropy),
        **_staleness(stats),
        **_engine(stats),
        **weights.metrics,
    }


def _masks(stats: TokenStats, weights: TokenWeights) -> dict[str, Tensor]:
    """M2 before and after the rule, how much of the batch it touched, and the clip range it amounts to."""
    outward, valid = stats.outward, stats.count
    kept_outward = outward * weights.kept
    region = stats.trust_region
    in_region, in_kept = region.sum(), (region & weights.kept).sum()
    signed = kept_outward * stats.sign
    extremes = signed.aminmax() if signed.numel() else torch.aminmax(signed.new_zeros(1))
    return {
        "m2_before": _dot(outward) / in_region,
        "m2_after": _dot(kept_outward) / in_kept,
        "m2_valid": _dot(stats.log_ratio64) / valid,
        "trust_region_fraction": in_region / valid,
        "masked_fraction": (valid - weights.kept.sum()) / valid,
        "mask_ratio_low": extremes.min.exp(),
        "mask_ratio_high": extremes.max.exp(),
        "clamped_fraction": (stats.log_ratio.abs() > LOG_RATIO_BOUND).sum() / valid,
        "empty_responses": (stats.lengths == 0).sum(),
    }


def _dot(values: Tensor) -> Tensor:
    """Σ values², 0-d."""
    flat = values.reshape(-1)
    return torch.dot(flat, flat)


def _divergences(stats: TokenStats, weights: TokenWeights) -> dict[str, Tensor]:
    """KL and χ² estimates over V, and effective sample sizes; the ratio is the clamped one."""
    valid = stats.count
    excess = stats.ratio - 1  # 0 on padding, so plain sums are sums over V
    log_mean = stats.log_ratio_sum / valid
    excess_mean, excess_square = excess.sum(dtype=torch.float64) / valid, _dot(excess) / valid
    ratio_square = 1 + 2 * excess_mean + excess_square
    weight_sum, weight_square = weights.weights.sum(dtype=torch.float64), _dot(weights.weights)
    return {
        "k1": -log_mean,
        "k2": _dot(stats.log_ratio64) / valid / 2,
        "k3": excess_mean - log_mean,
        "chi2": excess_square,
        "chi2_second_moment": ratio_square - 1,
        "ess": (1 + excess_mean).square() / ratio_square,
        "ess_weighted": weight_sum.square() / (weight_square * valid),
    }


def _ratio_quantiles(stats: TokenStats) -> dict[str, Tensor]:
    """Quantiles (nearest rank) of r over the tokens with A>0 and with A<0, from one sort of both."""
    names = [f"ratio_{sign}_q{round(100 * q):02d}" for sign in ("negative", "positive") for q in QUANTILES]
    stride = max(1, math.ceil(stats.mask.numel() / QUANTILE_SAMPLE))
    sign = stats.token_advantages.sign().reshape(-1)[::stride].double()
    if sign.numel() == 0:
        return dict.fromkeys(names, torch.full((), math.nan, dtype=torch.float64, device=sign.device))
    # Both signs in one sort: a shift wider than the clamp puts A<0 first, then A>0, the rest (NaN) last.
    shift = 4 * LOG_RATIO_BOUND
    log_ratio = stats.log_ratio.reshape(-1)[::stride].double().clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    ordered = torch.where(sign == 0, math.nan, log_ratio + shift * sign).sort().values
    negative = (sign < 0).sum()
    counts = torch.stack([negative, (sign > 0).sum()])
    starts = torch.stack([torch.zeros_like(negative), negative])
    levels = torch.tensor(QUANTILES, dtype=torch.float64, device=sign.device)
    ranks = (levels * (counts - 1)[:, None]).round().long().clamp(min=0) + starts[:, None]
    found = ordered[ranks.clamp(max=sign.numel() - 1)] - shift * torch.tensor([[-1.0], [1.0]], device=sign.device)
    quantiles = torch.where(counts[:, None] > 0, found.exp(), math.nan)
    return dict(zip(names, quantiles.reshape(-1), strict=True))


def _entropies(stats: TokenStats, weights: TokenWeights, entropy: Tensor | None) -> dict[str, Tensor]:
    """Mean entropy in nats over V, over the kept tokens and over the masked ones."""
    if entropy is None:
        return {}
    valid, kept = stats.count, weights.kept.sum()
    values = stats.used(entropy).double()
    total, kept_total = values.sum(), (values * weights.kept).sum()
    return {
        "entropy": total / valid,
        "entropy_kept": kept_total / kept,
        "entropy_masked": torch.where(valid > kept, (total - kept_total) / (valid - kept), math.nan),
    }


def _staleness(stats: TokenStats) -> dict[str, Tensor]:
    """Realised staleness over V, in updates."""
    if stats.staleness is None or stats.mask.numel() == 0:
        return {}
    staleness = stats.staleness.double()
    values = staleness[:, None].expand(stats.mask.shape) if staleness.dim() == 1 else staleness
    low = torch.where(stats.mask, values, math.inf).amin()
    high = torch.where(stats.mask, values, -math.inf).amax()
    return {
        "staleness_min": torch.where(low.isinf(), math.nan, low),
        "staleness_mean": stats.used(values).sum() / stats.count,
        "staleness_max": torch.where(high.isinf(), math.nan, high),
    }


def _engine(stats: TokenStats) -> dict[str, Tensor]:
    """Engine mismatch over V: log π_behaviour (trainer numerics) − log π_engine."""
    if stats.logp_engine is None:
        return {}
    gap = stats.difference(stats.logp_behaviour, stats.logp_engine)
    return {
        "engine_gap_mean": gap.sum() / stats.count,
        "engine_gap_square": _dot(gap) / stats.count,
        "engine_gap_max": gap.abs().amax() if gap.numel() else gap.new_full((), math.nan),
    }
