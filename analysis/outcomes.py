"""Numbers of one run's accuracy curve that do not depend on where it was stopped. docs/analysis.md defines them.

Every function takes `updates` and `accuracy`, [n] each: the evaluations of one run in order.
"""

from __future__ import annotations

import math

import numpy as np

SHARE = 0.5  # a drawdown to below this share of the running best counts as one
DROP = 0.05  # and only if at least so deep: noise on a policy that never learned is none


def area(updates: np.ndarray, accuracy: np.ndarray) -> float:
    """Area under the curve over its length, by trapezoids: the mean accuracy of the run."""
    span = updates[-1] - updates[0]
    return float(np.trapezoid(accuracy, updates) / span) if span else float(accuracy[-1])


def last_mean(updates: np.ndarray, accuracy: np.ndarray, k: int) -> float:
    """Mean of the last k evaluations; the one before the first update never counts. NaN without another."""
    trained = accuracy[updates > 0]
    return float(trained[-k:].mean()) if len(trained) else math.nan


def drawdown(updates: np.ndarray, accuracy: np.ndarray) -> tuple[float, float]:
    """The largest fall below the best so far, and how long it lasted.

    Returns its depth (accuracy), and the updates from that best to the evaluation that is back at it, or to the end.
    """
    best = np.maximum.accumulate(accuracy)
    lowest = int(np.argmax(best - accuracy))
    peak = int(np.argmax(accuracy[: lowest + 1]))
    back = np.flatnonzero((np.arange(len(accuracy)) > lowest) & (accuracy >= best[lowest]))
    end = int(back[0]) if len(back) else len(accuracy) - 1
    return float(best[lowest] - accuracy[lowest]), float(updates[end] - updates[peak]) if lowest > peak else 0.0


def fallen(accuracy: np.ndarray) -> np.ndarray:
    """bool [n]: below half of the running best, and at least 0.05 below it."""
    best = np.maximum.accumulate(accuracy)
    return (accuracy < SHARE * best) & (best - accuracy >= DROP)


def share_fallen(updates: np.ndarray, accuracy: np.ndarray) -> float:
    """Share of updates spent fallen; an evaluation stands for the updates since the one before it."""
    span = updates[-1] - updates[0]
    return float(np.diff(updates, prepend=updates[0])[fallen(accuracy)].sum() / span) if span else 0.0


def first_fall(updates: np.ndarray, accuracy: np.ndarray) -> float:
    """The first evaluation that has fallen, in updates; inf if none has."""
    at = np.flatnonzero(fallen(accuracy))
    return float(updates[at[0]]) if len(at) else math.inf


def restricted(times: np.ndarray, horizon: float) -> np.ndarray:
    """Times cut off at a horizon that every run has reached: their mean is the restricted mean survival time.

    times: [n] updates, inf for a run in which it did not happen. horizon: updates that all n runs were observed for.
    """
    return np.minimum(np.asarray(times, dtype=float), horizon)
