"""What docs/calibration.md says holds, simulated smaller."""

from __future__ import annotations

from analysis import calibration


def shares(table):
    return {tuple(row[:-1]): float(row[-1].split()[0]) / 100 for row in table.rows}


def test_claims_are_false_in_at_most_one_family_in_twenty():
    assert all(share <= 0.05 + 3 * 0.011 for share in shares(calibration.errors(200)).values())


def test_a_difference_of_two_deviations_is_found_at_twelve_seeds_in_a_family_of_sixteen():
    found = shares(calibration.power(200))
    assert found["ahead", "2, one of the family", 12, 16] >= 0.9
