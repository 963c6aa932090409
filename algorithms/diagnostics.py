"""Every diagnostic of an update, computed the same way for every method."""

import math

import torch
from torch import Tensor

from algorithms.token_stats import LOG_RATIO_BOUND, TokenStats
from algorithms.token_weights import TokenWeights

QUANTILES = (0.01, 0.5, 0.99)
QUANTILE_SAMPLE = 4096
"""Quantiles need a sort: exact up to this many tokens, beyond it over an even stride of them."""


def diagnose(stats: TokenStats, weights: TokenWeights) -> dict[str, Tensor]:
    """Diagnostics of one whole mini-batch: {name: 0-d}, NaN where undefined (the recorder writes null).

    stats: with entropy, staleness or logp_engine for the diagnostics of these.
    weights: the method's; its own metrics come along.

    Nothing here waits for the device. Units and formulas: docs/diagnostics.md.
    """
    return {
        "clip_fraction": clip_fraction(stats, weights),
        "acted": clip_fraction(stats, weights),
        **_masks(stats, weights),
        **_divergences(stats),
        "ess_weighted": ess_weighted(stats, weights),
        **_sequences(stats),
        **_ratio_quantiles(stats),
        **_entropies(stats, weights),
        **_staleness(stats),
        **_engine_gap(stats),
        **weights.metrics,
    }


def clip_fraction(stats: TokenStats, weights: TokenWeights) -> Tensor:
    """Share of the valid tokens that the rule changed, 0-d: the one metric that every peer logs."""
    return torch.count_nonzero(weights.changed) / stats.count


def masked_fraction(stats: TokenStats, weights: TokenWeights) -> Tensor:
    """Share of the valid tokens that the rule masked, 0-d."""
    return (stats.count - torch.count_nonzero(weights.kept)) / stats.count


def ess_weighted(stats: TokenStats, weights: TokenWeights) -> Tensor:
    """Effective sample size of the method's weights, as a share of the valid tokens, 0-d."""
    total = weights.weights.sum(dtype=torch.float64)
    return total.square() / (_sum_of_squares(weights.weights) * stats.count)


def _masks(stats: TokenStats, weights: TokenWeights) -> dict[str, Tensor]:
    """M2 before and after the rule, how much of the batch it masked, and the clip range that this amounts to."""
    valid, kept = stats.count, stats.trust_region & weights.kept
    in_region, in_kept = torch.count_nonzero(stats.trust_region), torch.count_nonzero(kept)
    kept_log_ratio = torch.where(kept, stats.log_ratio64, 0.0)
    # In T, A<0 goes with l<0 and A>0 with l>0; the 0 stands for none of them, a ratio of 1.
    lowest, highest = torch.nn.functional.pad(kept_log_ratio.reshape(-1), (0, 1)).aminmax()
    return {
        "m2_before": stats.trust_region_m2.sum() / in_region,
        "m2_after": kept_log_ratio.square().sum() / in_kept,
        "m2_valid": _sum_of_squares(stats.log_ratio64) / valid,
        "trust_region_fraction": in_region / valid,
        "masked_fraction": masked_fraction(stats, weights),
        "mask_ratio_low": lowest.exp(),
        "mask_ratio_high": highest.exp(),
        "clamped_fraction": torch.count_nonzero(stats.log_ratio.abs() > LOG_RATIO_BOUND) / valid,
        "empty_responses": (stats.lengths == 0).sum(),
    }


def _sum_of_squares(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    return torch.dot(flat, flat)


def _divergences(stats: TokenStats) -> dict[str, Tensor]:
    """KL and χ² estimates over V, effective sample size and perplexities; the ratio is the clamped one."""
    valid = stats.count
    excess = stats.ratio - 1  # 0 outside the mask, so plain sums are sums over V
    log_mean = stats.log_ratio64.sum() / valid
    excess_mean, excess_square = excess.sum(dtype=torch.float64) / valid, _sum_of_squares(excess) / valid
    ratio_square = 1 + 2 * excess_mean + excess_square
    return {
        "k1": -log_mean,
        "k2": _sum_of_squares(stats.log_ratio64) / valid / 2,
        "k3": excess_mean - log_mean,
        "chi2": excess_square,
        "chi2_second_moment": ratio_square - 1,
        "ess": (1 + excess_mean).square() / ratio_square,
        "perplexity": (-stats.logp.sum(dtype=torch.float64) / valid).exp(),
        "perplexity_behaviour": (-stats.behaviour.sum(dtype=torch.float64) / valid).exp(),
        "perplexity_ratio": (-log_mean).exp(),
    }


def _sequences(stats: TokenStats) -> dict[str, Tensor]:
    """Of the ratio of whole sequences, Π r, and its geometric mean: ESS, χ², mean, standard deviation, extremes.

    Sequences without a valid token do not count. The ESS is that of the unclamped Π r: what VCPO (arXiv 2602.17616) and
    verl watch, since it falls before a run collapses.
    """
    filled = stats.lengths > 0
    count = filled.sum()
    ratios = {
        "sequence_ratio": _ratio64(stats.sequence_log_ratio("sum")[:, 0]),
        "geometric_ratio": _ratio64(stats.sequence_log_ratio("mean")[:, 0]),
    }
    spread = {
        f"{name}_{key}": value for name, ratio in ratios.items() for key, value in _spread(ratio, filled, count).items()
    }
    excess = torch.where(filled, ratios["sequence_ratio"] - 1, 0.0)
    return {
        "ess_sequence": _sequence_ess(stats, filled, count),
        "chi2_sequence": _sum_of_squares(excess) / count,
        **spread,
    }


def _ratio64(log_ratio: Tensor) -> Tensor:
    """exp(clamp(l, ±20)) in float64."""
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def _sequence_ess(stats: TokenStats, filled: Tensor, count: Tensor) -> Tensor:
    """(Σ W)² / (n Σ W²) of W = Π r, unclamped, 0-d: divided by the largest W, so that nothing overflows."""
    logs = torch.where(filled, stats.sequence_log_ratio("sum")[:, 0], -math.inf)
    weights = (logs - torch.nn.functional.pad(logs, (0, 1), value=-math.inf).amax()).exp()
    return weights.sum().square() / (weights.square().sum() * count)


def _spread(values: Tensor, chosen: Tensor, count: Tensor) -> dict[str, Tensor]:
    """Mean, standard deviation, smallest and largest of the chosen (bool) values, [B] each; NaN if there is none."""
    mean = torch.where(chosen, values, 0.0).sum() / count
    deviation = torch.where(chosen, values - mean, 0.0)
    low = torch.nn.functional.pad(torch.where(chosen, values, math.inf), (0, 1), value=math.inf).amin()
    high = torch.nn.functional.pad(torch.where(chosen, values, -math.inf), (0, 1), value=-math.inf).amax()
    return {
        "mean": mean,
        "std": (_sum_of_squares(deviation) / count).sqrt(),
        "min": torch.where(low.isinf(), math.nan, low),
        "max": torch.where(high.isinf(), math.nan, high),
    }


def _ratio_quantiles(stats: TokenStats) -> dict[str, Tensor]:
    """Quantiles (nearest rank) of r over the tokens with A<0 and over those with A>0."""
    stride = max(1, math.ceil(stats.mask.numel() / QUANTILE_SAMPLE))
    advantages = stats.token_advantages.reshape(-1)[::stride]
    ratio = stats.ratio.reshape(-1)[::stride]
    signs = {"negative": _quantiles(ratio, advantages < 0), "positive": _quantiles(ratio, advantages > 0)}
    return {
        f"ratio_{sign}_q{round(100 * q):02d}": quantile
        for sign, quantiles in signs.items()
        for q, quantile in zip(QUANTILES, quantiles, strict=True)
    }


def _quantiles(values: Tensor, chosen: Tensor) -> Tensor:
    """QUANTILES of the chosen values (bool), [3], NaN if there is none. A boolean index would wait for the device."""
    ordered = torch.nn.functional.pad(torch.where(chosen, values, math.inf), (0, 1), value=math.inf).sort().values
    count = chosen.sum()
    ranks = (torch.tensor(QUANTILES, dtype=torch.float64, device=values.device) * (count - 1)).round().long()
    return torch.where(count > 0, ordered[ranks.clamp(min=0)], math.nan)


def _entropies(stats: TokenStats, weights: TokenWeights) -> dict[str, Tensor]:
    """Mean entropy in nats over V, over the kept tokens and over the masked ones."""
    if stats.entropy is None:
        return {}
    entropy, masked = stats.masked(stats.entropy).double(), stats.mask & ~weights.kept
    return {
        "entropy": entropy.sum() / stats.count,
        "entropy_kept": (entropy * weights.kept).sum() / torch.count_nonzero(weights.kept),
        "entropy_masked": (entropy * masked).sum() / torch.count_nonzero(masked),
    }


def _staleness(stats: TokenStats) -> dict[str, Tensor]:
    """Realised staleness over V, in updates; how far apart a response's tokens are; the drift that it amounts to."""
    if stats.staleness is None or stats.mask.numel() == 0:
        return {}
    staleness = stats.masked(stats.staleness.double())
    low = torch.where(stats.mask, staleness, math.inf).amin(dim=1)
    high = torch.where(stats.mask, staleness, -math.inf).amax(dim=1)
    mean = staleness.sum() / stats.count
    span = (high - low).amax()
    kl = (stats.ratio - 1 - stats.log_ratio64).sum() / stats.count
    return {
        "staleness_min": torch.where(low.amin().isinf(), math.nan, low.amin()),
        "staleness_mean": mean,
        "staleness_max": torch.where(high.amax().isinf(), math.nan, high.amax()),
        "version_span": torch.where(span.isinf(), math.nan, span),
        "drift_per_update": torch.where(mean > 0, kl / mean, math.nan),
    }


def _engine_gap(stats: TokenStats) -> dict[str, Tensor]:
    """Engine mismatch over V: log π_behaviour (trainer numerics) − log π_engine, in nats."""
    if stats.logp_engine is None:
        return {}
    gap = stats.difference(stats.logp_behaviour, stats.logp_engine)
    return {
        "engine_gap_mean": gap.sum() / stats.count,
        "engine_gap_square": _sum_of_squares(gap) / stats.count,
        "engine_gap_max": torch.nn.functional.pad(gap.abs().reshape(-1), (0, 1)).amax(),
    }
