"""Is this response right? Pure functions of text; they run inside the grading workers, never in the trainer.

A verifier takes the response and what its task knows of the problem and returns `(score, formatted)`: a score
from 0 to 1, of which 1 counts as correct, and whether the answer stood where the prompt asks for it. Model text
is hostile: nothing of ours evaluates it, and the pool ends what takes too long or too much memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from harness.rewards.reasoning_gym import dataset

Verdict = tuple[float, bool]

LONGEST_ANSWER = 1000  # characters; no reference answer comes near it
_NUMBER = r"-?(?:\d[\d,]*)?\.?\d+"
_AFTER_HASHES = re.compile(r"####\s*\$?\s*(" + _NUMBER + r")", re.ASCII)
_PLAIN_NUMBER = re.compile(_NUMBER, re.ASCII)


def gsm8k(response: str, answer: str) -> Verdict:
    """The number after the last `####`, thousands separators ignored, against `answer`."""
    number = gsm8k_answer(response)
    return float(number is not None and number == normal_number(answer)), number is not None


def math(response: str, answer: str) -> Verdict:
    """math-verify on the last `\\boxed{}` (the paper's reward)."""
    boxed = last_boxed(response)
    if boxed is None or len(boxed) > LONGEST_ANSWER:
        return 0.0, boxed is not None
    if _squeezed(boxed) == _squeezed(answer):
        return 1.0, True
    from math_verify import verify  # late: seconds of imports that other verifiers do without

    # Their time-out is SIGALRM in the main thread; ours is outside the process and covers crashes too.
    right = verify(parse_math(answer), parse_math(boxed), timeout_seconds=None)
    return float(right), True


def exact(response: str, answer: str) -> Verdict:
    """The whole response, white space at its ends aside."""
    return float(response.strip() == answer.strip()), bool(response.strip())


def reasoning_gym(response: str, name: str, index: int, options: dict[str, Any]) -> Verdict:
    """reasoning-gym's own verifier on the last `<answer>`, else on the whole response.

    name, index, options: of the data set and the entry, which is made again here, so that only JSON travels.
    """
    answer = last_tagged(response)
    data = dataset(name, tuple(sorted(options.items())))
    text = (response if answer is None else answer).strip()
    return float(data.score_answer(answer=text, entry=data[index])), answer is not None


def math_parses(answer: str) -> Verdict:
    """Whether a reference answer can be compared at all; checked once, when a corpus is loaded."""
    return float(bool(_PLAIN_NUMBER.fullmatch(answer)) or bool(parse_math(answer))), True


VERIFIERS: dict[str, Callable[..., Verdict]] = {
    "gsm8k": gsm8k,
    "math": math,
    "exact": exact,
    "reasoning_gym": reasoning_gym,
    "math_parses": math_parses,
}


def gsm8k_answer(text: str) -> str | None:
    """The last `#### number` of a text, normalised; None if there is none."""
    numbers = _AFTER_HASHES.findall(text)
    return normal_number(numbers[-1]) if numbers and len(numbers[-1]) <= LONGEST_ANSWER else None


def normal_number(text: str) -> str:
    """`1,234.50` → `1234.5`; text that is no ASCII number comes back as it is."""
    digits = text.strip().replace(",", "")
    if not _PLAIN_NUMBER.fullmatch(digits):
        return text.strip()
    sign = "-" if digits.startswith("-") else ""
    whole, _, fraction = digits.removeprefix("-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return number if number == "0" else sign + number


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{…}` with balanced braces; None if there is none. One pass."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for end in range(begin, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[begin:end]
    return None


def last_tagged(text: str) -> str | None:
    """What stands in the last `<answer>…</answer>`; None if there is none."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else None


def parse_math(answer: str) -> list[Any]:
    """math-verify's readings of an answer, [] if there is none."""
    from math_verify import parse  # late: seconds of imports that other verifiers do without

    readings: list[Any] = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    return readings


def _squeezed(text: str) -> str:
    return "".join(text.split())
