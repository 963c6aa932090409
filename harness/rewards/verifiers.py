"""Is this response right? Pure functions of text; they run inside the grading workers, never in the trainer.

A verifier takes the response and what its task knows of the problem and returns `(score, formatted, details)`: a score
from 0 to 1, of which 1 counts as correct, whether the answer stood where the prompt asks for it, and what else is to
be said of it. Model text is hostile: nothing of ours evaluates it, and the pool ends what takes too long or too much
memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from harness.rewards.answers import (
    LONGEST_ANSWER,
    in_base,
    is_nothing,
    last_boxed,
    last_tagged,
    normal_formula,
    number_after_hashes,
    option,
    phrase,
    word,
)
from harness.rewards.numbers import leading_number, written
from harness.rewards.reasoning_gym import dataset

_SPACE = re.compile(r"(?<!\d) | (?!\d)")  # all but between digits: 4 5 is not 45, nor 3 1/2 31/2
_HALF_DAY = re.compile(r"(?<=\d)(?:\s|\\text\s*\{)*[ap]\.?\s?m\b", re.IGNORECASE)
Verdict = tuple[float, bool, dict[str, Any]]


def gsm8k(response: str, answer: str) -> Verdict:
    """The number after the last `####`, however it is written, against `answer`."""
    number = number_after_hashes(response)
    return float(number is not None and number == leading_number(answer)), number is not None, {}


def math(response: str, answer: str) -> Verdict:
    """math-verify on the last `\\boxed{}` (the paper's reward), both sides in their normal form."""
    boxed = last_boxed(response)
    if boxed is None or len(boxed) > LONGEST_ANSWER:
        return 0.0, boxed is not None, {}
    return float(same_formula(answer, boxed)), True, {}


def exact(response: str, answer: str) -> Verdict:
    """The whole response, white space at its ends aside."""
    return float(response.strip() == answer.strip()), bool(response.strip()), {}


def reasoning_gym(response: str, name: str, index: int, options: dict[str, Any], gold: str | None = None) -> Verdict:
    """reasoning-gym's own verifier on the last `<answer>`, else on the whole response.

    name, index, options: of the data set and the entry, which is made again here, so that only JSON travels.
    gold: an answer in place of the entry's own.
    """
    answer = last_tagged(response)
    data = dataset(name, tuple(sorted(options.items())))
    entry = data[index] if gold is None else data[index] | {"answer": gold}
    text = (response if answer is None else answer).strip()
    return float(data.score_answer(answer=text, entry=entry)), answer is not None, {}


def math_parses(answer: str) -> Verdict:
    """Whether a reference answer can be compared at all: it is no `nan`, prose or half a formula, and has a value."""
    if len(answer) > LONGEST_ANSWER or is_nothing(answer):
        return 0.0, True, {}
    formula = normal_formula(answer)[0]
    if formula.removeprefix("-").isdecimal() and formula.isascii():
        return 1.0, True, {}
    is_value = bool(word(formula)) or any(not isinstance(reading, str) for reading in parse_math(formula))
    return float(is_value), True, {}


VERIFIERS: dict[str, Callable[..., Verdict]] = {
    "gsm8k": gsm8k,
    "math": math,
    "exact": exact,
    "reasoning_gym": reasoning_gym,
    "math_parses": math_parses,
}


def gsm8k_answer(text: str) -> str | None:
    """The last `#### number` of a text, in its shortest exact form; None if there is none."""
    number = number_after_hashes(text)
    return None if number is None else written(number)


def same_formula(gold: str, answer: str) -> bool:
    """Whether two formulas have one value. A percentage is its number where both sides or neither have the sign;
    against a side without it, it is also a hundredth: 50\\% is 50, and it is 1/2.

    gold: the reference answer.
    answer: the model's.
    """
    (left, left_percent), (right, right_percent) = normal_formula(gold), normal_formula(answer)
    if _squeezed(left) == _squeezed(right):
        return bool(left) or _squeezed(gold) == _squeezed(answer)
    said, answered = _said(gold, answer, left, right)
    if said is not None:
        return said == answered
    (left, left_base), (right, right_base) = in_base(left), in_base(right)
    if left_base and right_base and left_base != right_base:
        return False
    if left == right or _verified(left, right):
        return True
    if left_percent == right_percent:
        return False
    return _verified(_hundredth(left), right) if left_percent else _verified(left, _hundredth(right))


def _said(gold: str, answer: str, left: str, right: str) -> tuple[str | None, str | None]:
    """What two answers say in words, (None, None) where the reference answer is a formula: no word is a product of
    letters, in any order, no letter of an option a factor, and half a day is no unit.
    """
    if option(gold) and option(answer):
        return option(gold), option(answer)
    if word(left):
        return word(left), word(right) or right.strip("()").lower()
    words = (phrase(left), phrase(right))
    if words[0] and words[1] and words[0].lower() == words[1].lower() and "\\" in left + right:
        return words[0].lower(), words[1].lower()
    half_days = [re.sub(r"\W", "", found[0]).lower() for found in map(_HALF_DAY.search, (left, right)) if found]
    if left.lower() in ("yes", "no") or len(set(half_days)) > 1:
        return left.lower(), word(right) or right.lower()
    return None, None


def parse_math(formula: str) -> list[Any]:
    """math-verify's readings of a formula, [] if there is none."""
    from math_verify import parse  # late: seconds of imports that other verifiers do without

    readings: list[Any] = parse(f"\\boxed{{{formula}}}", parsing_timeout=None)
    return readings


def _verified(gold: str, answer: str) -> bool:
    from math_verify import verify  # late: as in parse_math

    # Their time-out is SIGALRM in the main thread; ours is outside the process and covers crashes too.
    return bool(verify(parse_math(gold), parse_math(answer), timeout_seconds=None, allow_set_relation_comp=True))


def _hundredth(formula: str) -> str:
    return f"\\frac{{{formula}}}{{100}}"


def _squeezed(text: str) -> str:
    return _SPACE.sub("", " ".join(text.split()))
