"""Counter-based random numbers: functions of their counters, uniform, and independent of each other."""

import numpy as np

from harness import randomness

PINNED = 6615857515411296618


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


def test_a_purpose_is_any_name_and_has_streams_of_its_own():
    names = [f"purpose {i}" for i in range(1000)]
    first = np.array([randomness.keys(1, name, 0) for name in names])
    assert len(np.unique(first)) == len(names)
    a, b = (randomness.uniforms(randomness.keys(1, name, np.arange(5000)), 1)[:, 0] for name in "ab")
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(5000)


def test_a_key_is_the_same_in_every_process():
    assert int(randomness.keys(1, "sample", 2, 3, 4)) == PINNED
