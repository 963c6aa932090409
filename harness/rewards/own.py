"""A reward function of the user's own: (problem, response, row) → a number, or numbers by name.

It runs in the grading workers, confined like the built-in verifiers: it may compute and read files; it cannot write,
open a socket, start a program or a thread, and it has the same CPU time and memory an answer. Its module is imported
before the worker is confined.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from harness.errors import UserError, not_imported

REWARD_PARTS = ("reward", "score")  # the part that is the reward; where there is neither, it is the sum of all
CORRECT = "correct"  # the part that says whether an answer counts as right; else: a reward of at least 1

Verdict = tuple[float, bool, dict[str, Any]]


@cache
def load_function(path: str) -> Callable[[str, str, dict[str, Any]], Any]:
    """The function that a dotted name stands for, its module imported. Raises UserError.

    path: package.module.function; whoever asks has made sure that its package may run.
    """
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the import of somebody's module runs into
        raise not_imported(f"task.reward={path}", error) from error
    if not callable(function):
        raise UserError(f"task.reward={path}: not a function; expected (problem, response, row) → float or parts")
    found: Callable[[str, str, dict[str, Any]], Any] = function
    return found


def own(response: str, function: str, problem: str, row: dict[str, Any]) -> Verdict:
    """What the user's function says of a response.

    response: the whole of it.
    function: its dotted name.
    problem: the problem's text, without the prompt around it.
    row: the row of the data file.
    Returns the reward, whether it counts as correct, and the parts. Raises ValueError for what is no finite number.
    """
    result = load_function(function)(problem, response, row)
    parts = {str(k): _number(v, str(k)) for k, v in result.items()} if isinstance(result, Mapping) else {}
    if isinstance(result, Mapping) and not parts:
        raise ValueError("expected a number or numbers by name, got an empty mapping")
    named = next((parts[name] for name in REWARD_PARTS if name in parts), None)
    reward = _number(result, "reward") if not parts else sum(parts.values()) if named is None else named
    return reward, bool(parts.get(CORRECT, reward) >= 1), parts


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a number, got {type(value).__name__}") from error
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    return number
