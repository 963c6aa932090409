"""The embedded task: exact verification, splits that cannot overlap, noise as declared."""

import numpy as np
import pytest

from harness import randomness
from harness.errors import UserError
from harness.tasks.carry import Carry
from harness.types import Problem

PROBLEM = Problem("27+8+5=", "27+8+5=", "40", {"numbers": [27, 8, 5]})


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("35;40", 1.0),
        ("25;40", 1.0),  # the last number decides
        ("40", 1.0),
        ("35;30", 0.0),
        ("35;40;", 0.0),
        ("35;040", 0.0),
        ("", 0.0),
        ("35;４０", 0.0),  # full-width digits are not the answer
        ("9" * 100_000, 0.0),
    ],
)
def test_the_last_number_is_verified_exactly(response, reward):
    (grade,) = Carry(terms=3).grade([PROBLEM], [response])
    assert (grade.reward, grade.correct) == (reward, reward == 1.0)


def test_prompts_are_keyed_by_consumption_index():
    task = Carry()
    forwards, one = task.train(1, range(20)), task.train(1, [13])
    assert one == [forwards[13]]
    assert task.train(2, range(20)) != forwards


@pytest.mark.parametrize("terms", [2, 3, 6])
def test_training_validation_and_test_cannot_overlap(terms):
    task = Carry(terms=terms, validation_problems=40, test_problems=40)
    held_out = {name: {p.id for p in task.split(name)} for name in ("validation", "test")}
    assert len(held_out["validation"]) == len(held_out["test"]) == 40
    assert not held_out["validation"] & held_out["test"]
    trained = {p.id for seed in range(3) for p in task.train(seed, range(1000))}
    assert not trained & (held_out["validation"] | held_out["test"])


def test_answers_are_sums():
    for problem in Carry(terms=5).train(7, range(50)):
        assert sum(map(int, problem.prompt.rstrip("=").split("+"))) == int(problem.answer)


def test_worked_solutions_err_as_often_as_declared():
    task = Carry(terms=2, carry_noise=0.6, slip_noise=0.1)
    problems = task.train(0, range(8000))
    noise = randomness.keys(0, "worked solution", np.arange(8000))
    carries = np.array([sum(n % 10 for n in p.data["numbers"]) >= 10 for p in problems])
    wrong = np.array([task.worked_solution(p, k) != p.answer for p, k in zip(problems, noise, strict=True)])
    assert abs(wrong[carries].mean() - 0.6) < 0.04
    assert abs(wrong[~carries].mean() - 0.1) < 0.03


@pytest.mark.parametrize("setting", [{"terms": 1}, {"carry_noise": 1.5}, {"test_problems": 0}])
def test_bad_settings_are_refused_in_one_line(setting):
    with pytest.raises(UserError) as error:
        Carry(**setting)
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_a_split_larger_than_the_problem_space_is_refused():
    with pytest.raises(UserError, match=r"task\.validation_problems=128: only \d+ different problems could be made"):
        Carry(terms=2).split("validation")
