"""Every statistic against numbers found by hand, and intervals against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import synthetic

from analysis import runs, scores, statistics, tables
from analysis.errors import AnalysisError, MissingData

VALUES = np.array([0.41, 0.52, 0.47, 0.60, 0.33, 0.55])


def test_interval_is_scipys_t_interval():
    low, high = statistics.interval(VALUES)
    theirs = scipy.stats.t.interval(0.95, 5, loc=VALUES.mean(), scale=scipy.stats.sem(VALUES))
    assert (low, high) == pytest.approx(theirs)


def test_interval_of_three_values_by_hand():
    # mean 1, s = 1, t(.975, 2) = 4.303
    assert statistics.interval(np.array([0.0, 1.0, 2.0])) == pytest.approx((1 - 2.484, 1 + 2.484), abs=1e-3)


def test_intervals_of_whole_curves():
    low, high = statistics.interval(np.stack([VALUES, VALUES + 1], axis=1))
    assert low[1] == pytest.approx(low[0] + 1) and high[1] == pytest.approx(high[0] + 1)


def test_same_data_same_numbers():
    assert statistics.estimate(VALUES) == statistics.estimate(VALUES.copy())


@pytest.mark.parametrize(("values", "n"), [([], 0), ([0.5], 1), ([0.5, 0.6], 2), ([0.5, math.nan], 1)])
def test_fewer_than_three_carry_no_interval(values, n):
    found = statistics.estimate(values)
    assert found.n == n and math.isnan(found.low) and math.isnan(found.high)


def test_paired_difference_uses_the_common_seeds_only():
    a = pd.Series([0.5, 0.75, 1.0, 0.7], index=[1, 2, 3, 4])
    b = pd.Series([0.0, 0.5, 0.5, 9.0], index=[1, 2, 3, 5])
    found = statistics.paired_difference(a, b)
    assert found.n == 3 and found.value == pytest.approx((0.5 + 0.25 + 0.5) / 3)
    assert (found.low, found.high) == statistics.interval(np.array([0.5, 0.25, 0.5]))


def test_pairing_removes_what_the_seeds_share():
    shared = np.array([0.0, 0.3, -0.2, 0.1, 0.4])
    a, b = pd.Series(shared + 0.05), pd.Series(shared)
    paired = statistics.paired_difference(a, b)
    assert paired.high - paired.low < 1e-12 < statistics.estimate(a).high - statistics.estimate(a).low


def test_hierarchical_interval_holds_the_noise_of_seeds_and_of_problems():
    rng = np.random.default_rng(1)
    seeds, problems = rng.normal(0, 0.1, (8, 1)), rng.normal(0, 0.3, (1, 400))
    by_seed = statistics.hierarchical(np.broadcast_to(seeds, (8, 400)))
    assert (by_seed.low, by_seed.high) == pytest.approx(statistics.interval(seeds[:, 0]), rel=0.1)
    both = statistics.hierarchical(seeds + problems)
    assert both.value == pytest.approx((seeds + problems).mean()) and both.n == 8
    width = both.high - both.value
    expected = scipy.stats.t.ppf(0.975, 7) * math.hypot(seeds.std(ddof=1) / math.sqrt(8), 0.3 / math.sqrt(400))
    assert width == pytest.approx(expected, rel=0.12)
    assert math.isnan(statistics.hierarchical(np.ones((2, 4))).low)


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ([0.1, 0.3, 0.5], 15.0),  # half way between 0.3 at 10 and 0.5 at 20
        ([0.4, 0.5, 0.6], 0.0),  # there from the start
        ([0.1, 0.4, 0.2], 10.0),  # the first time counts
        ([0.1, 0.2, 0.3], math.inf),
    ],
)
def test_updates_to_target_by_hand(accuracy, expected):
    assert scores.updates_to_target(np.array([0, 10, 20]), np.array(accuracy), 0.4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("accuracy", "onset"),
    [
        ([0.2, 0.4, 0.5, 0.1, 0.1], 30),  # falls below half its best and stays
        ([0.2, 0.4, 0.1, 0.5, 0.5], math.nan),  # recovers
        ([0.2, 0.5, 0.1, 0.4, 0.1, 0.0], 40),  # the last fall, that stays, counts
        ([0.2, 0.4, 0.5, 0.5, 0.1], math.nan),  # one bad evaluation at the end
        ([0.04, 0.02, 0.01, 0.01], math.nan),  # less than 0.05 deep: noise
        ([0.2, 0.4, 0.5, 0.3, 0.3], math.nan),  # above half of the best
        ([0.5, 0.1, 0.1, 0.1], 10),
        ([0.5], math.nan),
    ],
)
def test_collapse_by_hand(accuracy, onset):
    found = scores.collapse_onset(np.arange(len(accuracy)) * 10, np.array(accuracy))
    assert found == onset or (math.isnan(found) and math.isnan(onset))


def write_evaluations(folder, rows):
    lines = [
        f'{{"update": {u}, "split": "{split}", "n": 10, "sampled_accuracy": {value}}}\n' for u, split, value in rows
    ]
    (folder / "eval.jsonl").write_text("".join(lines))


def test_best_is_chosen_on_validation_and_read_on_test(tmp_path):
    run = synthetic.write_run(tmp_path / "a", updates=30)
    validation, test = [0.1, 0.5, 0.4, 0.2], [0.2, 0.3, 0.9, 0.6]
    rows = [(10 * i, "validation", v) for i, v in enumerate(validation)]
    rows += [(10 * i, "test", v) for i, v in enumerate(test)]
    write_evaluations(run, rows)
    score = scores.per_run(runs.load([run]), last=2).iloc[0]
    assert (score["best"], score["best_update"]) == (0.3, 10)  # not the 0.9 that test alone would choose
    assert score["final"] == 0.6 and score["last_k"] == pytest.approx(0.75) and score["initial"] == 0.2
    assert score["area"] == pytest.approx((0.25 + 0.6 + 0.75) / 3) and score["observed"] == 30


def test_the_last_mean_never_holds_the_evaluation_before_the_first_update(tmp_path):
    run = synthetic.write_run(tmp_path / "a", updates=20)
    write_evaluations(run, [(u, s, v) for u, v in ((0, 0.1), (10, 0.5), (20, 0.7)) for s in ("validation", "test")])
    study = runs.load([run])
    assert scores.per_run(study, last=3).iloc[0]["last_k"] == pytest.approx(0.6)
    with pytest.raises(AnalysisError, match="expected at least 1"):
        scores.per_run(study, last=0)


def test_benchmarks_are_averaged_and_an_incomplete_average_is_left_out(tmp_path):
    run = synthetic.write_run(tmp_path / "a", updates=20)
    rows = [(0, "validation", 0.1), (20, "validation", 0.2), (10, "aime", 0.9)]
    rows += [(0, "aime", 0.2), (0, "math", 0.4), (20, "aime", 0.4), (20, "math", 0.8)]
    write_evaluations(run, rows)
    study = runs.load([run])
    assert scores.accuracy_curves(study)["accuracy"].tolist() == pytest.approx([0.3, 0.6])
    assert scores.reported_split(study) == "mean of 2 benchmarks"


def test_on_policy_runs_that_gain_nothing_set_no_target(tmp_path):
    for name, last in (("flat", 0.2), ("gains", 0.4)):
        run = synthetic.write_run(tmp_path / name / "run", "grpo", 0, 1, updates=40)
        write_evaluations(run, [(u, "test", last if u else 0.2) for u in (0, 20, 40)])
    assert scores.default_target(runs.load([tmp_path / "gains"])) is not None
    flat = runs.load([tmp_path / "flat"])
    assert scores.default_target(flat) is None
    with pytest.raises(MissingData, match="that gained accuracy"):
        tables.to_target(flat)


def test_cost_is_a_ratio_to_on_policy_grpo_of_the_same_seed(tmp_path):
    for seed, (fast, slow) in {1: (10, 20), 2: (20, 30), 3: (10, 30)}.items():
        for staleness, reached in ((0, fast), (64, slow)):
            run = synthetic.write_run(tmp_path / f"{staleness}-{seed}", "grpo", staleness, seed, updates=40)
            rows = [(u, s, 0.1 if u < reached else 0.5) for u in range(0, 50, 10) for s in ("validation", "test")]
            write_evaluations(run, rows)
    study = runs.load([tmp_path])
    target = scores.Target(0.5, "by hand", ("grpo", 0))
    cost = scores.cost_of_staleness(study, target)
    stale = cost[cost["staleness"] == 64].set_index("seed")
    assert stale["ratio"].to_dict() == {1: 2.0, 2: 1.5, 3: 3.0}
    assert stale["samples_to_target"].to_dict() == {1: 20 * 128, 2: 30 * 128, 3: 30 * 128}


def test_a_run_that_never_gets_there_counts_as_the_horizon(tmp_path):
    """Three seeds, the last censored at 40 on policy's 10: no seed is left out; 90 % of the way is at 9 and 19."""
    for seed, reached in {1: 20, 2: 20, 3: 99}.items():
        for staleness, at in ((0, 10), (64, reached)):
            run = synthetic.write_run(tmp_path / f"{staleness}-{seed}", "grpo", staleness, seed, updates=40)
            rows = [(u, s, 0.1 if u < at else 0.5) for u in range(0, 50, 10) for s in ("validation", "test")]
            write_evaluations(run, rows)
    study = runs.load([tmp_path])
    cost = scores.cost_of_staleness(study, scores.Target(0.5, "by hand", ("grpo", 0)))
    stale = cost[cost["staleness"] == 64].set_index("seed")
    assert stale["updates_to_target"].to_dict() == {1: 20, 2: 20, 3: 40} and not stale["reached"][3]
    row = tables.to_target(study).rows[1]
    assert row[:4] == ["GRPO", 64, 3, "2/3"] and row[5].value == pytest.approx((19 + 19 + 40) / 27)


def test_unknown_metric_names_the_nearest(study):
    with pytest.raises(AnalysisError, match="sampled_accuracy"):
        scores.per_run(study, "sampled_acuracy")
