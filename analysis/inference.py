"""What paired differences allow to say: tests, their correction for a family, equivalence, detectable differences.

Every definition stands in docs/analysis.md; `python -m analysis.calibration` measures their error rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

from analysis import statistics
from analysis.statistics import SEED, Estimate

ALPHA = 0.05
MARGIN = 0.02  # accuracy: differences within it are called equivalent
POWER = 0.9
NO_PAIR = "no pair of seeds"
OTHER_SPAN = "not compared: evaluated over other updates"
_EXACT = 14  # pairs up to which every one of the 2ⁿ signs is tried
_DRAWS = 20_000


def sign_flip(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of "the differences are symmetric around 0": the share of sign flips with as large a mean.

    Exact for n ≤ 14, where it is at least 2/2ⁿ; beyond that 20,000 random flips and the observed one.

    differences: [n, …], the first axis holds the pairs. Returns [...], NaN without pairs.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    flat = values.reshape(len(values), -1)
    sums = np.abs(_signs(len(values)) @ flat)
    at_least = sums >= np.abs(flat.sum(axis=0)) * (1 - 1e-9) - 1e-12
    return at_least.mean(axis=0).reshape(values.shape[1:])


@cache
def _signs(n: int) -> np.ndarray:
    if n <= _EXACT:
        return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    drawn = np.random.default_rng(SEED).choice([-1.0, 1.0], size=(_DRAWS, n))
    return np.vstack([np.ones(n), drawn])


def smallest_p(n: int) -> float:
    """The smallest p that `sign_flip` can give with n pairs."""
    return min(1.0, 2 / 2**n if n <= _EXACT else 1 / (_DRAWS + 1))


def holm(p: np.ndarray) -> np.ndarray:
    """p values corrected for the family they stand in (Holm 1979): below α means at most α of false claims in all.

    p: [m, …], the first axis is the family.
    """
    p = np.asarray(p, dtype=float)
    order = p.argsort(axis=0)
    steps = np.arange(len(p), 0, -1).reshape(-1, *[1] * (p.ndim - 1))
    adjusted = np.maximum.accumulate(np.take_along_axis(p, order, axis=0) * steps, axis=0).clip(max=1)
    result = np.empty_like(adjusted)
    np.put_along_axis(result, order, adjusted, axis=0)
    return result


def equivalence(differences: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """p of "the mean difference is at least the margin": two one-sided t tests (Schuirmann 1987), the larger of both.

    differences: [n, …], the first axis holds the pairs. margin: in their unit. Returns [...]; NaN for n < 2.
    """
    values = np.asarray(differences, dtype=float)
    n, mean = len(values), np.mean(values, axis=0)
    if n < 2:
        return np.full(values.shape[1:], np.nan)
    error = np.maximum(values.std(axis=0, ddof=1) / math.sqrt(n), 1e-12)  # equal runs differ by exactly 0
    return stats.t.sf((margin - np.abs(mean)) / error, n - 1)


def detectable(deviation: float, n: int, family: int = 1, power: float = POWER) -> float:
    """The true mean difference that a paired t test at α/family finds with this power: what n seeds can see.

    deviation: standard deviation of the paired differences. n: pairs. family: comparisons made.
    Returns it in the unit of `deviation`; NaN for n < 2, and where pairs that do not vary say nothing of the noise.
    """
    if n < 2 or not math.isfinite(deviation) or not deviation:
        return math.nan
    critical = stats.t.isf(ALPHA / family / 2, n - 1)

    def lacking(effect: float) -> float:
        return float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n))) - power

    return deviation * float(optimize.brentq(lacking, 0, 2 * (critical + 10) / math.sqrt(n) + 10))


def detectable_in(pairs: np.ndarray, family: int = 1) -> float:
    """`detectable` for the noise that paired differences show.

    pairs: [n]. family: comparisons made.
    """
    return detectable(float(np.std(pairs, ddof=1)) if len(pairs) > 1 else math.nan, len(pairs), family)


def words_alone(pairs: np.ndarray, p: float) -> str:
    """What may be said of one difference that is tested at .05 by itself.

    "The same" needs no test: the 95 % interval lies within the margin.

    pairs: [n], paired differences. p: of their test.
    """
    if smallest_p(len(pairs)) >= ALPHA:
        return f"n = {len(pairs)} is too few for a test"
    low, high = (float(end) for end in statistics.interval(pairs))
    same = f"the same within {MARGIN:g}" if max(abs(low), abs(high)) <= MARGIN else ""
    if p < ALPHA:
        return ", ".join(filter(None, ["higher" if pairs.mean() > 0 else "lower", same]))
    return same or "not told apart"


@dataclass(frozen=True)
class Claim:
    """What may be said of one paired comparison within its family.

    difference: A − B. p: Holm's. detectable: smallest difference found with 90 % power. words: the claim.
    """

    difference: Estimate
    p: float
    detectable: float
    words: str


def claims(
    family: Mapping[str, np.ndarray],
    same: frozenset[str] = frozenset(),
    margin: float = MARGIN,
    planned: int = 0,
) -> dict[str, Claim]:
    """A claim for every comparison that is shown beside the others.

    family: name → paired differences [n]. same: names whose pairs are the same runs: no comparisons at all.
    margin: of equivalence, in the unit of the differences. planned: comparisons of the family as registered, where
    more than were made; the missing ones count as p = 1.
    Returns name → Claim. "ahead", "behind" and "equivalent" are each false in at most 5 % of families.
    """
    names = [name for name, pairs in family.items() if name not in same and len(pairs)]
    size, missing = max(planned, len(names)), [1.0] * (planned - len(names))
    tested = holm(np.array([sign_flip(family[name]) for name in names] + missing))
    close = holm(np.nan_to_num(np.array([equivalence(family[name], margin) for name in names] + missing), nan=1.0))
    reachable = holm(np.array([smallest_p(len(family[name])) for name in names] + missing))
    result = {name: _claim(pairs, math.nan, "the same run" if name in same else NO_PAIR, size)
              for name, pairs in family.items() if name not in names}  # fmt: skip
    for name, p, q, least in zip(names, tested, close, reachable, strict=False):  # the missing ones come last
        words = _words(family[name], float(p), float(q), float(least), size, margin)
        result[name] = _claim(family[name], float(p), words, size)
    return {name: result[name] for name in family}


def _claim(pairs: np.ndarray, p: float, words: str, family: int) -> Claim:
    return Claim(statistics.estimate(pairs), p, detectable_in(pairs, max(family, 1)), words)


def _words(pairs: np.ndarray, p: float, q: float, least: float, family: int, margin: float) -> str:
    """The claim. least: Holm's p if every comparison of the family came out as small as its n allows."""
    n = len(pairs)
    if p < ALPHA:  # a difference may be there, and be smaller than the margin
        side = "ahead" if np.mean(pairs) > 0 else "behind"
        return f"{side}, equivalent within {margin:g}" if q < ALPHA else side
    if least >= ALPHA:  # where no difference could have been found, none is no evidence of equality either
        return f"n = {n} is too few for {family} comparison{'s' if family > 1 else ''}"
    if q < ALPHA:
        return f"equivalent within {margin:g}"
    return f"not told apart at n = {n}"
