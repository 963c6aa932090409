"""A toy corpus in the shape of GSM8K, made from templates: `python -m harness.tasks.word_problems`.

It exists so that everything a real corpus needs (files, columns, a BPE tokenizer, `####` answers) can be run from
end to end without a network. A problem belongs to a split by a hash of its text, so splits cannot overlap. It says
nothing about real mathematics.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from harness import randomness
from harness.tasks.generated import split_of

FOLDER = Path(__file__).parents[1] / "assets" / "word_problems"
SIZES = {"train": 2000, "validation": 200, "test": 200}

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Iris", "Jon", "Kim", "Leo")
THINGS = ("apples", "books", "coins", "pens", "shells", "stamps", "cards", "beads", "stones", "eggs")


@dataclass(frozen=True)
class Template:
    """A kind of problem.

    text: the question, with {name}, {other}, {things} and the numbers {a}, {b}, {c} to be filled in.
    ranges: (lowest, highest + 1) of a, b and c.
    steps: (operator, name of a number) of each calculation, from left to right, starting with a.
    """

    text: str
    ranges: tuple[tuple[int, int], ...]
    steps: tuple[tuple[str, str], ...]


TEMPLATES = (
    Template(
        "{name} has {a} {things} and buys {b} more. Then {name} gives {c} to {other}. "
        "How many {things} does {name} have?",
        ((15, 60), (5, 40), (3, 15)),
        (("+", "b"), ("-", "c")),
    ),
    Template(
        "{name} had {a} {things} but lost {b} of them. {other} gave {name} {c} new ones. "
        "How many {things} does {name} have now?",
        ((30, 80), (4, 25), (5, 40)),
        (("-", "b"), ("+", "c")),
    ),
    Template(
        "There are {a} {things} on each shelf and {b} shelves. {name} adds {c} {things}. How many {things} are there?",
        ((3, 13), (2, 6), (4, 40)),
        (("*", "b"), ("+", "c")),
    ),
    Template(
        "{name} fills {b} boxes with {a} {things} each and sells {c} {things}. How many {things} are left?",
        ((6, 13), (3, 7), (2, 18)),
        (("*", "b"), ("-", "c")),
    ),
    Template(
        "{name} found {a} {things} on Monday, {b} on Tuesday and {c} on Friday. How many {things} did {name} find?",
        ((10, 50), (5, 40), (5, 40)),
        (("+", "b"), ("+", "c")),
    ),
    Template(
        "{name} and {other} have {a} and {b} {things}. They share out {c} to friends. How many {things} remain?",
        ((20, 60), (10, 40), (5, 28)),
        (("+", "b"), ("-", "c")),
    ),
)


@dataclass(frozen=True)
class WordProblem:
    """One problem.

    question: its text.
    steps: (left, operator, right) of each calculation, in order; the answer is the last result.
    """

    question: str
    steps: tuple[tuple[int, str, int], ...]

    def record(self) -> dict[str, str]:
        """A row with GSM8K's columns, its calculator marks included."""
        lines = [f"{a}{op}{b}=<<{a}{op}{b}={apply(a, op, b)}>>{apply(a, op, b)}" for a, op, b in self.steps]
        a, op, b = self.steps[-1]
        return {"question": self.question, "answer": "\n".join([*lines, f"#### {apply(a, op, b)}"])}

    def careless_solution(self, key: np.ndarray, careless: float, slip: float) -> str:
        """A solution as a careless student writes it, going on from each error.

        key: uint64, 0-d, the randomness of its errors.
        careless: probability of forgetting the carry or borrow where there is one.
        slip: probability of being off by one where there is none.
        Returns a line a calculation and the answer after ####.
        """
        draws = randomness.uniforms(key, 2 * len(self.steps))
        lines: list[str] = []
        left = self.steps[0][0]
        for i, (_, op, right) in enumerate(self.steps):
            result = apply(left, op, right)
            error = _careless_error(left, op, right)
            if error and draws[2 * i] < careless:
                result += error
            elif not error and draws[2 * i] < slip:
                result += 1 if draws[2 * i + 1] < 0.5 else -1
            lines.append(f"{left}{op}{right}={max(result, 0)}")
            left = max(result, 0)
        return "\n".join([*lines, f"#### {left}"])


def apply(left: int, op: str, right: int) -> int:
    """left op right, for one of + - *."""
    return left + right if op == "+" else left - right if op == "-" else left * right


def draw(purpose: str, seed: int, index: int) -> WordProblem:
    """One problem, a function of the arguments alone.

    purpose: name of the stream of random numbers.
    seed: of that stream.
    index: position in it.
    """
    key = randomness.keys(seed, purpose, index)
    u = randomness.uniforms(key, 7)
    template = TEMPLATES[int(u[0] * len(TEMPLATES))]
    first = int(u[1] * len(NAMES))
    other = (first + 1 + int(u[2] * (len(NAMES) - 1))) % len(NAMES)
    low_high = zip(template.ranges, u[4:], strict=True)
    numbers = dict(zip("abc", (low + int(v * (high - low)) for (low, high), v in low_high), strict=True))
    words = {"name": NAMES[first], "other": NAMES[other], "things": THINGS[int(u[3] * len(THINGS))]}
    steps: list[tuple[int, str, int]] = []
    left = numbers["a"]
    for op, operand in template.steps:
        steps.append((left, op, numbers[operand]))
        left = apply(*steps[-1])
    return WordProblem(template.text.format(**words, **numbers), tuple(steps))


def stream(purpose: str, seed: int, name: str, start: int = 0) -> Iterator[WordProblem]:
    """Endless problems of one split, in the order of their index from `start` on; they may repeat.

    purpose: name of the stream of random numbers.
    seed: of that stream.
    name: the split: "train", "validation" or "test".
    """
    problems = (draw(purpose, seed, index) for index in count(start))
    return (problem for problem in problems if split_of(problem.question) == name)


def split(name: str) -> list[dict[str, str]]:
    """The rows of a split: SIZES[name] different questions."""
    rows: dict[str, dict[str, str]] = {}
    for problem in stream("word problem", 0, name):
        rows.setdefault(problem.question, problem.record())
        if len(rows) == SIZES[name]:
            break
    return list(rows.values())


def _careless_error(left: int, op: str, right: int) -> int:
    """What forgetting the carry or the borrow changes; 0 where there is none."""
    if op == "+":
        return -10 if left % 10 + right % 10 >= 10 else 0
    if op == "-":
        return 10 if left % 10 < right % 10 else 0
    return -10 if (left % 10) * right >= 10 else 0


def main(arguments: list[str] | None = None) -> int:
    """Writes a JSONL file a split; returns the exit status.

    arguments: of the command line, those of this process where None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m harness.tasks.word_problems", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the three files")
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        rows = split(name)
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{len(rows)} problems · {out / name}.jsonl")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
