"""Tests and their words: by hand, against scipy, and on studies with a known winner, a tie and a duplicate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from analysis import inference

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(("n", "smallest"), [(3, 0.25), (5, 0.0625), (6, 0.03125), (8, 2 / 256), (12, 2 / 4096)])
def test_the_smallest_p(n, smallest):
    assert inference.sign_flip(np.arange(1.0, n + 1)) == inference.smallest_p(n) == smallest


@pytest.mark.parametrize("n", [4, 7, 10])
def test_sign_flip_is_scipys_permutation_test(n):
    values = RNG.normal(0.4, 1, n)
    theirs = scipy.stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=10_000)
    assert inference.sign_flip(values) == pytest.approx(theirs.pvalue)


def test_many_differences_at_once_and_no_difference():
    values = RNG.normal(size=(6, 5))
    assert inference.sign_flip(values).tolist() == [inference.sign_flip(values[:, i]) for i in range(5)]
    assert inference.sign_flip(np.zeros(6)) == 1
    assert math.isnan(inference.sign_flip(np.array([])))


def test_with_many_pairs_signs_are_drawn():
    values = RNG.normal(0.3, 1, 24)
    exact = scipy.stats.ttest_1samp(values, 0).pvalue
    assert inference.sign_flip(values) == pytest.approx(exact, abs=0.02)
    assert inference.sign_flip(np.ones(24)) == pytest.approx(inference.smallest_p(24), abs=1e-4)


def test_holm_by_hand():
    assert inference.holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm(np.array([])).tolist() == []


def test_equivalence_is_two_t_tests():
    values = RNG.normal(0.005, 0.01, 9)
    sides = [scipy.stats.ttest_1samp(values, -0.02, alternative="greater").pvalue,
             scipy.stats.ttest_1samp(values, 0.02, alternative="less").pvalue]  # fmt: skip
    assert inference.equivalence(values, 0.02) == pytest.approx(max(sides))


def test_what_is_detectable_is_detected_with_that_power():
    found = inference.detectable(0.1, 8, family=4)
    critical = scipy.stats.t.isf(0.05 / 4 / 2, 7)
    assert scipy.stats.nct.sf(critical, 7, found / 0.1 * math.sqrt(8)) == pytest.approx(0.9, abs=1e-6)
    assert inference.detectable(0.1, 3, 16) > inference.detectable(0.1, 12, 16) > inference.detectable(0.1, 12)
    assert math.isnan(inference.detectable(0.0, 5)) and math.isnan(inference.detectable(0.1, 1))


def test_words_of_a_winner_a_tie_a_duplicate_and_too_few_seeds():
    noise = RNG.normal(0, 0.01, 12)
    family = {"winner": noise + 0.2, "loser": noise - 0.2, "tie": noise * 0.2,
              "small loss": (noise - noise.mean()) * 0.2 - 0.01, "noisy": RNG.normal(0, 0.2, 12),
              "duplicate": np.zeros(12), "other seeds": np.array([])}  # fmt: skip
    told = {name: claim.words for name, claim in inference.claims(family, frozenset({"duplicate"})).items()}
    assert told == {
        "winner": "ahead",
        "loser": "behind",
        "tie": "equivalent within 0.02",
        "small loss": "behind, equivalent within 0.02",
        "noisy": "not told apart at n = 12",
        "duplicate": "the same run",
        "other seeds": "no pair of seeds",
    }
    equal = inference.claims({"two seeds that agree": np.zeros(2)})
    assert equal["two seeds that agree"].words == "n = 2 is too few for 1 comparison"
    few = inference.claims({name: family[name][:3] for name in ("winner", "noisy")})
    assert {claim.words for claim in few.values()} == {"n = 3 is too few for 2 comparisons"}


@pytest.mark.parametrize(("n", "most"), [(6, 1), (8, 6), (10, 25), (12, 102)])
def test_how_large_a_family_can_be(n, most):
    values = np.arange(1.0, n + 1)
    assert {c.words for c in inference.claims({str(i): values for i in range(most)}).values()} == {"ahead"}
    words = {c.words for c in inference.claims({str(i): values for i in range(most + 1)}).values()}
    assert words == {f"n = {n} is too few for {most + 1} comparisons"}


def test_with_unequal_seeds_few_cannot_where_holm_could_not_have_reached_them_either():
    """n = 6 has p ≥ 1/32: enough as the second of a family whose first has 12 seeds, not beside another with 6."""
    many, few = np.arange(1.0, 13), np.array([1.0, -1.1, 0.8, -0.9, 1.2, -1.3])
    words = [inference.claims(family)["few"].words for family in ({"many": many, "few": few}, {"two": few, "few": few})]
    assert words == ["not told apart at n = 6", "n = 6 is too few for 2 comparisons"]
    assert inference.claims({"many": many, "few": many[:6]})["few"].words == "ahead"
