"""`task=countdown`: reach a target with the given numbers and + - * /. Made from nothing, verified exactly.

Model text is never evaluated by Python: a small parser knows numbers, four operators and parentheses, works in
exact fractions and gives up on anything longer or larger than a solution can be.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from harness import randomness
from harness.errors import UserError
from harness.rewards.verifiers import last_boxed, last_tagged
from harness.types import Grade, Problem

PARTS = 10  # by hash of the problem: 0 is validation, 1 is test, the rest training
LONGEST, LONGEST_NUMBER = 200, 6  # characters of an expression, digits of a number
_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])", re.ASCII)
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}

PROMPT = (
    "Using each of the numbers {numbers} exactly once, with + - * / and parentheses, write an expression that "
    "equals {target}. Put it between <answer> and </answer>.\n"
)


@dataclass(frozen=True)
class Countdown:
    """numbers: how many are given · largest: of them · max_target: of the result.
    validation_problems, test_problems: sizes of the held-out splits."""

    numbers: int = 4
    largest: int = 25
    max_target: int = 100
    validation_problems: int = 128
    test_problems: int = 256

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 8:
            raise UserError(f"task.numbers={self.numbers}: expected 2 to 8 numbers")
        if not 4 <= self.largest <= 1000:
            raise UserError(f"task.largest={self.largest}: expected 4 to 1000")
        if self.max_target < self.largest:
            raise UserError(f"task.max_target={self.max_target}: expected at least task.largest={self.largest}")
        for name in ("validation_problems", "test_problems"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise UserError(f"task.{name}={getattr(self, name)}: expected 1 to 10000 problems")

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        return [self._draw(seed, "problem", index, range(2, PARTS)) for index in indices]

    def split(self, name: str) -> list[Problem]:
        """The split's problems, all different; they do not depend on the run's seed."""
        part = {"validation": 0, "test": 1}[name]
        count = {"validation": self.validation_problems, "test": self.test_problems}[name]
        found: dict[str, Problem] = {}
        for index in range(50 * count):
            problem = self._draw(0, f"countdown {name}", index, (part,))
            found.setdefault(problem.id, problem)
            if len(found) == count:
                return list(found.values())
        raise UserError(f"task.{name}_problems={count}: there are fewer different problems; raise task.largest")

    def evaluation_splits(self) -> list[str]:
        return ["validation", "test"]

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        right = [solves(r, p.data["numbers"], p.data["target"]) for p, r in zip(problems, responses, strict=True)]
        return [Grade(float(correct), correct) for correct in right]

    def _draw(self, seed: int, purpose: str, index: int, parts: Sequence[int]) -> Problem:
        """The first solvable problem of the index's stream that lies in one of the wanted parts."""
        attempt = 0
        while True:
            key = randomness.keys(seed, purpose, index, attempt)
            attempt += 1
            numbers = randomness.integers(key, 1, self.largest + 1, self.numbers).tolist()
            target = self._reachable(numbers, randomness.uniforms(key + np.uint64(1), self.numbers))
            name = f"{sorted(numbers)}={target}"
            if target is not None and zlib.crc32(name.encode()) % PARTS in parts:
                prompt = PROMPT.replace("{numbers}", ", ".join(map(str, numbers))).replace("{target}", str(target))
                return Problem(name, prompt, str(target), {"numbers": numbers, "target": target})

    def _reachable(self, numbers: list[int], draws: np.ndarray) -> int | None:
        """A target made by folding the numbers with random operators, so that a solution exists."""
        value = Fraction(numbers[0])
        for number, u in zip(numbers[1:], draws, strict=False):
            value = _apply("+-*/"[int(u * 4)], value, Fraction(number))
        return int(value) if value.denominator == 1 and 1 <= value <= self.max_target else None


def solves(response: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the response's last <answer>, else its last \\boxed{}, else its last line, is an expression over
    exactly the given numbers that equals the target. Anything that is no expression is wrong, never an error."""
    text = next((t for t in (last_tagged(response), last_boxed(response)) if t is not None), None)
    if text is None:
        text = response.strip().rsplit("\n", 1)[-1]
    found = evaluate(text.split("=")[0] if len(text) <= LONGEST else text)
    return found is not None and found[0] == target and sorted(found[1]) == sorted(numbers)


class _NoExpression(ValueError):
    """The text is no arithmetic expression, or divides by zero."""


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """Value and numbers of an arithmetic expression (shunting-yard, no recursion); None if it is not one."""
    values: list[Fraction] = []
    operators: list[str] = []
    numbers: list[int] = []
    expects_value = True
    try:
        for token in _tokens(text.strip()):
            if expects_value != (token.isdigit() or token == "("):
                return None
            if token.isdigit():
                numbers.append(int(token))
                values.append(Fraction(numbers[-1]))
                expects_value = False
            elif token == "(":
                operators.append(token)
            elif token == ")":
                _fold(values, operators, 1)
                if not operators:
                    return None
                operators.pop()
            else:
                _fold(values, operators, _PRECEDENCE[token])
                operators.append(token)
                expects_value = True
        if expects_value or "(" in operators:
            return None
        _fold(values, operators, 1)
    except _NoExpression:
        return None
    return values[0], numbers


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(text) > LONGEST or len(match[1]) > LONGEST_NUMBER:
            raise _NoExpression
        found.append(match[1])
        position = match.end()
    return found


def _fold(values: list[Fraction], operators: list[str], precedence: int) -> None:
    """Applies the operators on top that bind at least as tightly, down to an open parenthesis."""
    while operators and operators[-1] != "(" and _PRECEDENCE[operators[-1]] >= precedence:
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
