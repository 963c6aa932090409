"""Statistics over seeds. Every definition stands in docs/analysis.md.

All functions are deterministic: the bootstrap draws from a generator with a fixed seed, so the same data
give the same numbers. A value that cannot be computed is NaN, an interval from fewer than three seeds too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEVEL = 0.95
RESAMPLES = 2000
SEED = 20251001
MIN_SEEDS = 3  # fewer carry no interval

Statistic = Callable[..., np.ndarray]


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The arithmetic mean along `axis`."""
    return np.mean(values, axis=axis)


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: the ⌊n/4⌋ smallest and largest values are left out; for n < 4 the mean.

    values: n values along `axis`.
    """
    ordered = np.sort(np.asarray(values, dtype=float), axis=axis)
    n = ordered.shape[axis]
    cut = n // 4
    return np.mean(np.take(ordered, np.arange(cut, n - cut), axis=axis), axis=axis)


def bootstrap(
    strata: Sequence[np.ndarray],
    statistic: Statistic = iqm,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> np.ndarray:
    """Stratified bootstrap over seeds.

    strata: a staleness or benchmark each, [n, …]; the first axis, the seeds, is drawn with replacement on its own.
    statistic: of the values along an axis. resamples: how many. seed: of the generator.
    Returns [resamples, …], the mean over strata of the statistic; strata count alike whatever their n.
    """
    rng = np.random.default_rng(seed)
    replicates = []
    for stratum in strata:
        values = np.asarray(stratum, dtype=float)
        drawn = values[rng.integers(0, len(values), size=(resamples, len(values)))]
        replicates.append(statistic(drawn, axis=1))
    return np.mean(replicates, axis=0)


def interval(
    strata: Sequence[np.ndarray],
    statistic: Statistic = iqm,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval.

    At n = 3 it is the range of the values: one resample in 27 holds nothing but the smallest.

    strata, statistic, resamples: as in `bootstrap`. level: nominal coverage.
    Returns low and high, NaN where the smallest stratum has fewer than three seeds.
    """
    shape = np.asarray(strata[0]).shape[1:]
    if min(len(s) for s in strata) < MIN_SEEDS:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    replicates = bootstrap(strata, statistic, resamples=resamples)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


@dataclass(frozen=True)
class Estimate:
    """A number over seeds: its value, its interval (NaN when n < 3), and n."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 0 or math.isnan(self.value):
            return "–"
        if math.isnan(self.low):
            return f"{self.value:.3f} (n={self.n}, no interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def estimate(values: Sequence[float] | np.ndarray, statistic: Statistic = iqm) -> Estimate:
    """A statistic over seeds with its interval.

    values: one a seed; those that are not finite are left out. statistic: of the values along an axis.
    """
    kept = np.asarray([v for v in values if v is not None and np.isfinite(v)], dtype=float)
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan, 0)
    low, high = interval([kept], statistic)
    return Estimate(float(statistic(kept)), float(low), float(high), len(kept))


def estimate_over_strata(strata: Sequence[np.ndarray], statistic: Statistic = iqm) -> Estimate:
    """The mean over strata of a statistic over seeds, with its interval.

    strata: one array of seeds each, [n]. Returns an estimate whose n is the smallest stratum's.
    """
    value = float(np.mean([statistic(np.asarray(s, dtype=float)) for s in strata]))
    low, high = interval(strata, statistic)
    return Estimate(value, float(low), float(high), min(len(s) for s in strata))


def paired_difference(a: pd.Series, b: pd.Series) -> Estimate:
    """Mean of a − b over the seeds both have, with its interval.

    Runs with one seed see the same prompts in the same order, so their difference has less noise than the difference
    of two means; pairs are what is resampled.

    a, b: indexed by what pairs them.
    """
    return estimate(differences(a, b).to_numpy(), mean)


def differences(a: pd.Series, b: pd.Series) -> pd.Series:
    """a − b of every seed both have.

    a, b: indexed by what pairs them.
    """
    pairs = pd.concat([a, b], axis=1, join="inner").dropna()
    return pairs.iloc[:, 0] - pairs.iloc[:, 1]


def probability_of_improvement(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> Estimate:
    """Share of pairs (a run of A, a run of B) in which A is larger, ties half: Mann–Whitney's U divided by n·m.

    a, b: one array of seeds a stratum (task or benchmark), over which the share is averaged.
    Returns an estimate; seeds of A and B are resampled apart.
    """
    pairs = [(np.asarray(x, float), np.asarray(y, float)) for x, y in zip(a, b, strict=True)]
    n = min(min(len(x), len(y)) for x, y in pairs)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = float(np.mean([_beats(x[None], y[None])[0] for x, y in pairs]))
    if n < MIN_SEEDS:
        return Estimate(value, math.nan, math.nan, n)
    rng = np.random.default_rng(SEED)
    drawn = np.mean([_beats(_resample(rng, x), _resample(rng, y)) for x, y in pairs], axis=0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), n)


def _resample(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return values[rng.integers(0, len(values), size=(RESAMPLES, len(values)))]


def _beats(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[R, n], [R, m] → [R]: the share of pairs in which a is larger, ties counting half."""
    difference = a[:, :, None] - b[:, None, :]
    return np.mean((difference > 0) + 0.5 * (difference == 0), axis=(1, 2))
