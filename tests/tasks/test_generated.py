"""Tasks made from nothing: countdown, reasoning-gym and the template problems."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction

import pytest

from harness.errors import UserError
from harness.tasks.carry import Carry
from harness.tasks.countdown import Countdown, evaluate, solves
from harness.tasks.reasoning_gym import ReasoningGym
from harness.tasks.word_problems import FOLDER, SIZES, split


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(3+5)*2-1/2", Fraction(31, 2)),
        ("8/2/2", Fraction(2)),
        ("7-4-2", Fraction(1)),
        ("2+3*4", Fraction(14)),
        ("((7))", Fraction(7)),
        ("99**98**97", None),
        ("1/0", None),
        ("1/(2-2)", None),
        ("", None),
        ("()", None),
        ("2--1", None),
        ("2 3", None),
        (")2(", None),
        ("(2", None),
        ("2)", None),
        ("٣+1", None),
        ("1e9", None),
        ("__import__('os')", None),
        ("(" * 10_000, None),
        ("9" * 1_000_000, None),
        ("1" * 7, None),
    ],
)
def test_bounded_evaluator(text: str, value: Fraction | None) -> None:
    result = evaluate(text)
    assert (None if result is None else result[0]) == value


def test_countdown_wants_every_number_once() -> None:
    assert solves("thinking <answer>(3+5)*2</answer>", [3, 5, 2], 16)
    assert solves("\\boxed{(3+5)*2}", [3, 5, 2], 16)
    assert solves("so\n(3+5)*2 = 16", [2, 3, 5], 16)
    assert not solves("<answer>16</answer>", [3, 5, 2], 16)
    assert not solves("<answer>(3+5)*2</answer>", [3, 5, 2, 1], 16)
    assert not solves("<answer>(3+5)*2</answer> no <answer>2*3</answer>", [3, 5, 2], 16)


def test_countdown_splits_do_not_overlap() -> None:
    task = Countdown(validation_problems=16, test_problems=16)
    ids = [
        {p.id for p in problems}
        for problems in (task.train(1, range(64)), task.split("validation"), task.split("test"))
    ]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    assert task.train(1, [5]) == task.train(1, range(6))[5:]
    assert task.train(2, [5]) != task.train(1, [5])


def test_a_countdown_too_small_for_its_splits_is_refused() -> None:
    with pytest.raises(UserError, match=r"task\.test_problems=4: only \d+ different problems"):
        Countdown(numbers=2, largest=4, max_target=4, test_problems=4).split("test")


@pytest.mark.parametrize("made", [Carry, Countdown, lambda **sizes: ReasoningGym("leg_counting", **sizes)])
@pytest.mark.parametrize("name", ["validation_problems", "test_problems"])
def test_sizes_of_splits(made: Callable[..., object], name: str) -> None:
    for size in (0, 1_000_000):
        with pytest.raises(UserError, match=f"task.{name}={size}: expected 1 to 100000 problems"):
            made(**{name: size})


def test_reasoning_gym_grades_with_its_own_verifier() -> None:
    task = ReasoningGym("leg_counting", validation_problems=4, test_problems=4)
    problems = [*task.train(1, range(3)), *task.split("validation")]
    assert len({p.id for p in problems}) == 7
    right = [f"so <answer>{p.answer}</answer>" for p in problems]
    assert all(grade.correct for grade in task.grade(problems, right))
    assert not any(grade.correct for grade in task.grade(problems, ["<answer>-1</answer>"] * 7))


@pytest.mark.parametrize("name", ["chain_sum", "gcd", "spell_backward", "word_sorting", "maze"])
def test_other_reasoning_gym_tasks(name: str) -> None:
    task = ReasoningGym(name, validation_problems=2, test_problems=2)
    problems = task.train(3, range(2))
    assert all(g.reward > 0.5 for g in task.grade(problems, [p.answer for p in problems]))


def test_reasoning_gym_names_and_options() -> None:
    with pytest.raises(UserError, match="did you mean leg_counting"):
        ReasoningGym("leg_countin")
    with pytest.raises(UserError, match="refused by leg_counting"):
        ReasoningGym("leg_counting", {"no_such": 1})


def test_word_problem_files_are_what_the_generator_makes() -> None:
    questions: dict[str, set[str]] = {}
    for part, size in SIZES.items():
        rows = [json.loads(line) for line in (FOLDER / f"{part}.jsonl").read_text().splitlines()]
        assert rows == split(part)
        assert len(rows) == size
        questions[part] = {row["question"] for row in rows}
    assert not questions["train"] & (questions["validation"] | questions["test"])
    assert not questions["validation"] & questions["test"]
