"""Distributions of ages by themselves: what is spelt is what every batch gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.command.plan import plan
from harness.errors import UserError
from harness.lag.ages import Ages, canonical, read

EXPECTED = {  # of a batch of 8 prompts, 4 updates a batch
    "uniform:0:28": [0, 4, 8, 12, 16, 20, 24, 28],
    "uniform:0:4": [0, 0, 0, 0, 4, 4, 4, 4],
    "uniform:8:8": [8] * 8,
    "uniform:0:12345676": [771604 + 1543208 * i + 4 * (i // 2) for i in range(8)],
    "two_point:0:256:.5": [0, 0, 0, 0, 256, 256, 256, 256],
    "two_point:16:0:.75": [0, 0, 0, 0, 0, 0, 16, 16],
    # sums 512 · (u + (1 − u) ln (1 − u)) at u = 1/8 …: 4.2, 17.5, 41.6, 78.6, 131.7, 206.6, 314.9, 512, in fours
    "long_tail:64": [4, 12, 24, 40, 52, 76, 108, 196],
}


@pytest.mark.parametrize("text", EXPECTED)
def test_the_ages_of_a_batch(text: str) -> None:
    assert read(text).ascending(8, 4).tolist() == EXPECTED[text]
    assert read(f"by_length:{text}").ascending(8, 4).tolist() == EXPECTED[text]


distributions = st.one_of(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda two: Ages("uniform", (min(two) * 4, max(two) * 4))),
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1)).map(
        lambda three: Ages("two_point", (three[0] * 4, three[1] * 4, three[2]))
    ),
    st.integers(0, 40).map(lambda mean: Ages("long_tail", (mean * 4,))),
)


@settings(max_examples=100, deadline=None)
@given(distribution=distributions, seed=st.integers(0, 2**31), batch=st.integers(0, 10**6), mini=st.integers(1, 16))
def test_every_batch_gets_all_ages_and_every_update_its_part(
    distribution: Ages, seed: int, batch: int, mini: int
) -> None:
    count = 4 * mini
    ages = distribution.ascending(count, 4)
    dealt = distribution.dealt(seed, batch, count, 4, None)
    assert sorted(dealt.tolist()) == ages.tolist() and (ages % 4 == 0).all() and (ages >= 0).all()
    assert dealt.tolist() == distribution.dealt(seed, batch, count, 4, None).tolist()
    for part in dealt.reshape(4, mini):  # one of every four neighbours in the order of age
        neighbours = ages.reshape(mini, 4)
        assert ((np.sort(part) >= neighbours.min(1)) & (np.sort(part) <= neighbours.max(1))).all()
    if distribution.name == "long_tail":
        assert ages.mean() == distribution.numbers[0] or count * distribution.numbers[0] % 4


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=8, max_size=8), batch=st.integers(0, 99))
def test_a_longer_prompt_is_never_younger(lengths: list[int], batch: int) -> None:
    dealt = read("by_length:0:28").dealt(1, batch, 8, 4, lengths)
    assert sorted(dealt.tolist()) == EXPECTED["uniform:0:28"]
    for one, other in zip(lengths, dealt, strict=True):
        assert all(age <= other for length, age in zip(lengths, dealt, strict=True) if length < one)


def test_chance_says_which_prompt_is_old_and_another_batch_and_seed_say_otherwise() -> None:
    distribution = read("uniform:0:256")
    first = distribution.dealt(1, 0, 64, 4, None).tolist()
    assert first != distribution.dealt(1, 1, 64, 4, None).tolist() != distribution.dealt(2, 1, 64, 4, None).tolist()


def test_one_distribution_has_one_spelling() -> None:
    assert canonical("two_point:0:256:.5") == canonical("two_point:0:256.0:0.50") == "two_point:0:256:0.5"
    assert canonical("by_length:0:64") == canonical("by_length:uniform:0:64") == "by_length:uniform:0:64"
    assert canonical("uniform:-0:1234568") == "uniform:0:1234568" and canonical("partial:4:-0") == "partial:4:0"
    assert canonical("two_point:0:12345678:.123456789") == "two_point:0:12345678:0.123456789"
    assert canonical("uniform:0:1e9") == "uniform:0:1e+09"
    assert canonical(64) == 64
    for other in (True, 4.0, None, -1):
        with pytest.raises(UserError, match="expected at least 0 updates, or a distribution"):
            canonical(other)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("uniform:0:1e12", "1e\\+12: ages are multiples of updates_per_step=4, 0 to 1000000000"),
        ("long_tail:1e308", "0 to 1000000000"),
        ("two_point:nan:8:.5", "nan: ages are multiples"),
        ("partial:inf", "inf: the age is a multiple of updates_per_step=4, 4 to 1000000000"),
        ("uniform:0:1234567", "1234567: ages are multiples"),
        ("by_length:two_pont:0:16:.5", "did you mean two_point"),
    ],
)
def test_what_is_no_age_is_refused(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        read(text).check(4)


def test_a_sweep_takes_numbers_and_distributions_alike() -> None:
    cells = plan(["-m", "staleness=0,uniform:0:128,64,two_point:0:128:.5", "tracking=none"]).cells
    assert [cell.staleness for cell in cells] == [0, "uniform:0:128", 64, "two_point:0:128:0.5"]
    names = [cell.folder.name.rsplit("-", 2)[0] for cell in cells]
    assert names == ["m2po-s0", "m2po-suniform_0_128", "m2po-s64", "m2po-stwo_point_0_128_0.5"]
    with pytest.raises(UserError, match="drop the repeated"):
        plan(["-m", "staleness=two_point:0:8:.5,two_point:0:8:0.5", "tracking=none"])
