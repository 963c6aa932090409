"""Estimates over seeds: means, their t intervals, paired differences. Every definition stands in docs/analysis.md.

What is tested of them is in analysis/inference.py. A value that cannot be computed is NaN, an interval from fewer than
three seeds too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
SEED = 20251001
MIN_SEEDS = 3  # fewer carry no interval


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Student's t interval of the mean.

    values: [n, …], the first axis holds the seeds. level: nominal coverage.
    Returns low and high, [...]; NaN where n < 3.
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < MIN_SEEDS:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    half = stats.t.ppf((1 + level) / 2, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return values.mean(axis=0) - half, values.mean(axis=0) + half


@dataclass(frozen=True)
class Estimate:
    """A number over seeds: its value, its interval (NaN when n < 3), n, and how many decimals are shown."""

    value: float
    low: float
    high: float
    n: int
    decimals: int = 3

    def __str__(self) -> str:
        if self.n == 0 or math.isnan(self.value):
            return "–"
        value, low, high = (f"{number:.{self.decimals}f}" for number in (self.value, self.low, self.high))
        if math.isnan(self.low):
            return f"{value} (n={self.n}, no interval)"
        return f"{value} [{low}, {high}] (n={self.n})"


def estimate(values: Sequence[float] | np.ndarray, decimals: int = 3) -> Estimate:
    """The mean over seeds with its t interval.

    values: one a seed; those that are not finite are left out. decimals: shown; 0 for numbers of updates.
    """
    kept = np.asarray([v for v in values if v is not None and np.isfinite(v)], dtype=float)
    if not len(kept):
        return Estimate(math.nan, math.nan, math.nan, 0, decimals)
    low, high = interval(kept)
    return Estimate(float(kept.mean()), float(low), float(high), len(kept), decimals)


def paired_difference(a: pd.Series, b: pd.Series) -> Estimate:
    """Mean of a − b over the seeds both have, with its interval.

    Runs with one seed see the same prompts in the same order, so their difference has less noise than the difference
    of two means.

    a, b: indexed by what pairs them.
    """
    return estimate(differences(a, b).to_numpy())


def differences(a: pd.Series, b: pd.Series) -> pd.Series:
    """a − b of every seed both have.

    a, b: indexed by what pairs them.
    """
    pairs = pd.concat([a, b], axis=1, join="inner").dropna()
    return pairs.iloc[:, 0] - pairs.iloc[:, 1]


def hierarchical(values: np.ndarray, level: float = LEVEL) -> Estimate:
    """The mean over seeds and problems, its interval from a bootstrap of both: other seeds and other problems.

    Seeds and problems are crossed (every seed answers every problem) and are drawn with replacement apart (the
    pigeonhole bootstrap, Owen 2007, doi 10.1214/07-AOAS122). Its standard deviation, times √(n/(n−1)) for the few
    seeds, takes the t quantile of n − 1; noise that is neither the seed's nor the problem's is counted twice.

    values: [n, problems], accuracy of each problem in each run, or paired differences of two.
    """
    n, problems = values.shape
    centre = float(values.mean())
    if n < MIN_SEEDS:
        return Estimate(centre, math.nan, math.nan, n)
    rng = np.random.default_rng(SEED)
    seeds = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n
    drawn = rng.multinomial(problems, np.full(problems, 1 / problems), size=RESAMPLES) / problems
    spread = float(((seeds @ values) * drawn).sum(axis=1).std()) * math.sqrt(n / (n - 1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * spread
    return Estimate(centre, centre - half, centre + half, n)
