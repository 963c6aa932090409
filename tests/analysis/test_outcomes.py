"""Outcomes of a curve without a stopping time, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis import outcomes

AT = np.arange(6) * 10.0
RECOVERS = np.array([0.2, 0.4, 0.8, 0.2, 0.3, 0.9])
STAYS_DOWN = np.array([0.2, 0.6, 0.1, 0.5, 0.1, 0.0])
RISES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.mark.parametrize(
    ("curve", "area", "drawdown", "share", "fall"),
    [
        (RECOVERS, (0.3 + 0.6 + 0.5 + 0.25 + 0.6) / 5, (0.6, 30), 2 / 5, 30),
        (STAYS_DOWN, (0.4 + 0.35 + 0.3 + 0.3 + 0.05) / 5, (0.6, 40), 3 / 5, 20),
        (RISES, 0.35, (0.0, 0.0), 0.0, math.inf),
        (np.array([0.02, 0.04, 0.01, 0.0, 0.0, 0.0]), 0.012, (0.04, 40), 0.0, math.inf),  # too shallow to be a fall
    ],
)
def test_by_hand(curve, area, drawdown, share, fall):
    assert outcomes.area(AT, curve) == pytest.approx(area)
    assert outcomes.drawdown(AT, curve) == pytest.approx(drawdown)
    assert outcomes.share_fallen(AT, curve) == pytest.approx(share)
    assert outcomes.first_fall(AT, curve) == fall


def test_a_curve_of_one_evaluation():
    one = np.array([0.0]), np.array([0.3])
    assert outcomes.area(*one) == 0.3 and outcomes.drawdown(*one) == (0.0, 0.0) and outcomes.share_fallen(*one) == 0
    assert math.isnan(outcomes.last_mean(*one, 3))


def test_evaluations_further_apart_weigh_more():
    assert outcomes.area(np.array([0.0, 10, 100]), np.array([0.0, 0.0, 1.0])) == pytest.approx(0.45)


def test_a_fall_that_did_not_happen_counts_as_the_horizon():
    assert outcomes.restricted(np.array([20, math.inf, 90]), 60).tolist() == [20, 60, 60]
