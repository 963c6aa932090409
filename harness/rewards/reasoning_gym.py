"""reasoning-gym's data sets, which make problems and score answers; refused where scoring evaluates text."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from harness.errors import UserError, nearest

Options = tuple[tuple[str, Any], ...]

EVALUATORS = {builtins.eval, builtins.exec, builtins.__import__}
PARSER = "sympy"  # its functions take text, and parse it with eval
AT_ONCE = "makes all its problems at once, and training needs them without end"
UNFIT = {
    "acre": AT_ONCE,
    "complex_arithmetic": "takes nan for a right answer",
    "game_of_life_halting": "takes any answer for a right one",
    "gsm_symbolic": AT_ONCE,
    "list_functions": AT_ONCE,
    "word_ladder": "has too few problems to train on without end",
}

_datasets: dict[tuple[str, str], Any] = {}


def dataset(name: str, options: Options) -> Any:
    """A data set of reasoning-gym, made once a process.

    name: of the data set.
    options: its settings, as sorted (name, value) pairs.
    Returns the data set: entry i is a function of i alone.
    Raises UserError for an unknown name, a verifier that evaluates text, or a setting that it refuses.
    """
    key = name, repr(options)
    if key not in _datasets:
        _datasets[key] = _create(name, dict(options))
    return _datasets[key]


def _create(name: str, options: dict[str, Any]) -> Any:
    # Imported late: it takes a second, and only task=reasoning_gym needs it.
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UserError(f"task.name={name}: no reasoning-gym task; {nearest(name, offered())}")
    if name in UNFIT:
        raise UserError(f"task.name={name}: not offered, for it {UNFIT[name]}; choose another than {', '.join(UNFIT)}")
    if name in refused():
        raise UserError(
            f"task.name={name}: not offered, for grading must not run what a model writes ({refused()[name]}); "
            f"choose another than {', '.join(refused())}"
        )
    try:
        return reasoning_gym.create_dataset(name, seed=0, size=2**31 - 1, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"task.options={options}: refused by {name} ({error})") from error


def offered() -> set[str]:
    """Names of the tasks of reasoning-gym that can be trained on."""
    from reasoning_gym.factory import DATASETS  # late: see _create

    return set(DATASETS) - set(refused()) - set(UNFIT)


@cache
def refused() -> dict[str, str]:
    """Every task of reasoning-gym whose verifier evaluates text, and which of its functions does so."""
    from reasoning_gym.factory import DATASETS  # late: see _create

    found = {name: evaluates(cls) for name, (cls, _) in sorted(DATASETS.items())}
    return {name: reason for name, reason in found.items() if reason}


def evaluates(cls: type) -> str:
    """Where a data set's verifier evaluates text or parses it with sympy, or leaves it to another data set.

    cls: of the data set; its `score_answer` is read, and what that calls in reasoning-gym.
    Returns "FUNCTION calls NAME", "" if it does not.
    """
    todo: list[FunctionType] = [inspect.getattr_static(cls, "score_answer")]
    seen: set[FunctionType] = set()
    while todo:
        function = todo.pop()
        seen.add(function)
        for name in _names(function.__code__):
            called = [function.__globals__.get(name, getattr(builtins, name, None)), _function(cls, name)]
            if any(map(_is_evaluator, called)) or name == "score_answer":
                return f"{function.__qualname__} calls {name}"
            todo += [f for c in called for f in _ours(c) if f not in seen]
    return ""


def _names(code: CodeType) -> Iterator[str]:
    """Every global, attribute and imported module that code names, functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _function(cls: type, name: str) -> Any:
    """The method or property of a class with this name, as a function."""
    found = inspect.getattr_static(cls, name, None)
    return getattr(found, "__func__", getattr(found, "fget", found))


def _is_evaluator(called: Any) -> bool:
    module = getattr(called, "__module__", None) or getattr(called, "__name__", None)
    from_parser = isinstance(module, str) and module.split(".")[0] == PARSER
    return from_parser or any(called is evaluator for evaluator in EVALUATORS)


def _ours(called: Any) -> list[FunctionType]:
    """The functions of reasoning-gym in what is called: itself, or the methods of a class."""
    candidates = vars(called).values() if inspect.isclass(called) else [called]
    functions = [c for c in candidates if isinstance(c, FunctionType)]
    return [f for f in functions if f.__module__.split(".")[0] == "reasoning_gym"]
