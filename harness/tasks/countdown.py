"""`task=countdown`: reach a target with the given numbers and + - * /. Made from nothing, verified exactly.

Model text is never evaluated by Python: a small parser knows numbers, four operators and parentheses, works in
exact fractions and gives up on anything longer or larger than a solution can be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from harness import randomness
from harness.errors import UserError, require
from harness.rewards.verifiers import last_boxed, last_tagged
from harness.tasks.generated import CANDIDATES, GeneratedTask, split_of
from harness.types import Grade, Problem

LONGEST, LONGEST_NUMBER = 200, 6  # characters of an expression, digits of a number
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])", re.ASCII)
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
MOST_ATTEMPTS = 10_000  # draws before it is plain that a split has no problem

PROMPT = (
    "Using each of the numbers {numbers} exactly once, with + - * / and parentheses, write an expression that "
    "equals {target}. Put it between <answer> and </answer>.\n"
)


@dataclass(frozen=True)
class Countdown(GeneratedTask):
    """Numbers from which to make a target; every problem has a solution.

    numbers: how many numbers are given.
    largest: largest number that may be given.
    max_target: largest target.
    """

    numbers: int = 4
    largest: int = 25
    max_target: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.numbers <= 8, "task.numbers", self.numbers, "2 to 8 numbers")
        require(4 <= self.largest <= 1000, "task.largest", self.largest, "4 to 1000")
        expected = f"at least task.largest={self.largest}"
        require(self.max_target >= self.largest, "task.max_target", self.max_target, expected)

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """The training problems with these consumption indices."""
        return [self._draw(seed, "problem", index, "train") for index in indices]

    def split(self, name: str) -> list[Problem]:
        """All problems of a held-out split; they do not depend on the run's seed."""
        indices = range(CANDIDATES * self.size(name))
        return self.fill(name, (self._draw(0, f"countdown {name}", index, name) for index in indices))

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each response: right if its expression solves the problem."""
        right = [solves(r, p.data["numbers"], p.data["target"]) for p, r in zip(problems, responses, strict=True)]
        return [Grade(float(correct), correct) for correct in right]

    def _draw(self, seed: int, purpose: str, index: int, split: str) -> Problem:
        """The first solvable problem of the index's stream that belongs to the split."""
        for attempt in range(MOST_ATTEMPTS):
            key = randomness.keys(seed, purpose, index, attempt)
            numbers = randomness.integers(key, 1, self.largest + 1, self.numbers).tolist()
            target = self._reachable(numbers, randomness.uniforms(key + np.uint64(1), self.numbers))
            name = f"{sorted(numbers)}={target}"
            if target is not None and split_of(name) == split:
                prompt = PROMPT.replace("{numbers}", ", ".join(map(str, numbers))).replace("{target}", str(target))
                return Problem(name, prompt, str(target), {"numbers": numbers, "target": target})
        raise UserError(f"task.largest={self.largest}: no {split} problem was found; raise it")

    def _reachable(self, numbers: list[int], draws: np.ndarray) -> int | None:
        """A target made by folding the numbers with random operators, so that a solution exists."""
        value = Fraction(numbers[0])
        for number, u in zip(numbers[1:], draws, strict=False):
            value = _apply("+-*/"[int(u * 4)], value, Fraction(number))
        return int(value) if value.denominator == 1 and 1 <= value <= self.max_target else None


def solves(response: str, numbers: Sequence[int], target: int) -> bool:
    """Whether a response reaches the target; anything that is no expression is wrong, never an error.

    response: its last <answer>, else its last \\boxed{}, else its last line is the expression.
    numbers: each must be used exactly once.
    target: what the expression must equal.
    """
    text = next((t for t in (last_tagged(response), last_boxed(response)) if t is not None), None)
    if text is None:
        text = response.strip().rsplit("\n", 1)[-1]
    result = evaluate(text.split("=")[0] if len(text) <= LONGEST else text)
    return result is not None and result[0] == target and sorted(result[1]) == sorted(numbers)


class _NoExpression(ValueError):
    """The text is no arithmetic expression, or divides by zero."""


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """An arithmetic expression, worked out.

    text: at most LONGEST characters of ASCII numbers, + - * / and parentheses.
    Returns its exact value and its numbers in their order, None if the text is no such expression.
    """
    try:
        tokens = _tokens(text.strip())
        return _value(tokens), [int(token) for token in tokens if token.isdigit()]
    except _NoExpression:
        return None


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(text) > LONGEST or len(match[1]) > LONGEST_NUMBER:
            raise _NoExpression
        tokens.append(match[1])
        position = match.end()
    return tokens


def _value(tokens: list[str]) -> Fraction:
    """The shunting-yard algorithm: two stacks, no recursion."""
    values: list[Fraction] = []
    operators: list[str] = []
    expects_value = True
    for token in tokens:
        if expects_value != (token.isdigit() or token == "("):
            raise _NoExpression
        if token.isdigit():
            values.append(Fraction(int(token)))
        elif token == "(":
            operators.append(token)
        elif token == ")":
            _fold(values, operators, 1)
            _close(operators)
        else:
            _fold(values, operators, PRECEDENCE[token])
            operators.append(token)
        expects_value = token == "(" or token in PRECEDENCE
    if expects_value or "(" in operators:
        raise _NoExpression
    _fold(values, operators, 1)
    return values[0]


def _close(operators: list[str]) -> None:
    """Takes the open parenthesis off the stack."""
    if not operators:
        raise _NoExpression
    operators.pop()


def _fold(values: list[Fraction], operators: list[str], precedence: int) -> None:
    """Applies the operators on top that bind at least as tightly, down to an open parenthesis."""
    while operators and operators[-1] != "(" and PRECEDENCE[operators[-1]] >= precedence:
        operator, right, left = operators.pop(), values.pop(), values.pop()
        if operator == "/" and right == 0:
            raise _NoExpression
        values.append(_apply(operator, left, right))


def _apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right
