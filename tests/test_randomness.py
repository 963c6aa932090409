"""Counter-based random numbers: functions of their counters, uniform, and independent of each other."""

import numpy as np
import pytest

from harness import randomness


def test_a_key_depends_on_every_counter_and_on_nothing_else():
    table = randomness.keys(1, "sample", np.arange(4)[:, None, None], np.arange(5)[:, None], np.arange(6))
    assert len(np.unique(table)) == table.size
    assert table[2, 3, 4] == randomness.keys(1, "sample", 2, 3, 4)
    assert randomness.keys(2, "sample", 2, 3, 4) != table[2, 3, 4]
    assert randomness.keys(1, "evaluation", 2, 3, 4) != table[2, 3, 4]


def test_order_of_counters_matters():
    assert randomness.keys(1, "sample", 2, 3) != randomness.keys(1, "sample", 3, 2)


def test_uniforms_are_a_prefix_of_longer_ones():
    key = randomness.keys(1, "sample", np.arange(3))
    np.testing.assert_array_equal(randomness.uniforms(key, 4), randomness.uniforms(key, 9)[:, :4])


def test_uniforms_are_uniform_and_uncorrelated():
    draws = randomness.uniforms(randomness.keys(1, "sample", np.arange(20_000)), 3)
    assert draws.min() >= 0 and draws.max() < 1
    # Mean and variance of a uniform within five standard errors of 20,000 draws.
    assert np.abs(draws.mean(0) - 0.5).max() < 5 * np.sqrt(1 / 12 / 20_000)
    assert np.abs(draws.var(0) - 1 / 12).max() < 5 * np.sqrt(1 / 180 / 20_000)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 5 / np.sqrt(20_000)


def test_integers_cover_their_range():
    draws = randomness.integers(randomness.keys(1, "problem", np.arange(1000)), 3, 7, 2)
    assert sorted(np.unique(draws)) == [3, 4, 5, 6]


def test_an_unknown_purpose_is_refused():
    with pytest.raises(KeyError):
        randomness.keys(1, "nonsense", 0)
