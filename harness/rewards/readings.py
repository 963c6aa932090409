"""How a verifier read both sides, in words: for whoever asks why a response got its reward."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from harness.rewards.answers import last_boxed, last_tagged, normal_formula, number_after_hashes, option
from harness.rewards.numbers import leading_number, written
from harness.rewards.reasoning_gym import dataset
from harness.rewards.verifiers import Verdict, parse_math

NO_ANSWER = "none: the response has no "
LONGEST_SHOWN = 2000  # characters of either side


def readings(verifier: str, response: str, **arguments: Any) -> Verdict:
    """Both sides as a verifier reads them.

    verifier: math, gsm8k, exact or reasoning_gym.
    response: the whole of it.
    arguments: the verifier's others.
    Returns a verdict without a meaning, and {"gold", "answer"} in words.
    """
    gold, answer = READERS[verifier](response, **arguments)
    return 0.0, True, {"gold": gold[:LONGEST_SHOWN], "answer": answer[:LONGEST_SHOWN]}


def _math(response: str, answer: str) -> tuple[str, str]:
    boxed = last_boxed(response)
    return _formula(answer), NO_ANSWER + "closed \\boxed{}" if boxed is None else _formula(boxed)


def _formula(text: str) -> str:
    normal, percent = normal_formula(text)
    letter = option(text)
    if letter:
        return f"{text} → option {letter}"
    values = [str(value) for value in parse_math(normal) if not isinstance(value, str)]
    value = f"value {values[0]}" if values else "no value that math-verify can read"
    return f"{text} → {normal}{' percent' if percent else ''} → {value}"


def _gsm8k(response: str, answer: str) -> tuple[str, str]:
    found = number_after_hashes(response)
    return _number(answer, leading_number(answer)), _number("last ####", found) if found is not None else (
        NO_ANSWER + "#### with a number behind it"
    )


def _number(text: str, value: Fraction | None) -> str:
    return f"{text} → " + ("no number" if value is None else written(value))


def _exact(response: str, answer: str) -> tuple[str, str]:
    return answer.strip(), response.strip()


def _reasoning_gym(
    response: str, name: str, index: int, options: dict[str, Any], gold: str | None = None
) -> tuple[str, str]:
    entry = dataset(name, tuple(sorted(options.items())))[index]
    tagged = last_tagged(response)
    answer = f"{response.strip()} (no <answer> tag: the whole response)" if tagged is None else tagged.strip()
    return f"{entry['answer'] if gold is None else gold} (entry {index}: {entry['question']})", answer


READERS: dict[str, Callable[..., tuple[str, str]]] = {
    "math": _math,
    "gsm8k": _gsm8k,
    "exact": _exact,
    "reasoning_gym": _reasoning_gym,
}
