"""The parameters of a class that a `_target_` names: default, range and meaning, from its signature and docstrings."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from harness.errors import not_imported

OURS = ("algorithms", "harness")
ENTRY = re.compile(r"^((?:`?\w+`?)(?:, `?\w+`?)*): (.+)$")  # "low, high: bounds of …" in a docstring
REQUIRED = "no default"


@dataclass(frozen=True)
class Parameter:
    """What one may give a class. default: as it is typed. range: its values in words, "" where any will do."""

    name: str
    default: Any
    range: str
    meaning: str


def find(target: Any, allow_code: Sequence[str] = ()) -> type | None:
    """The class that a `_target_` names; None where it names code from outside that `allow_code` does not.

    Lighter than `build.named_class`, which checks more of it before a run. Raises UserError.
    """
    module, _, name = str(target).rpartition(".")
    if module.split(".")[0] not in OURS and not any(f"{module}.".startswith(f"{package}.") for package in allow_code):
        return None
    try:
        found: type = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise not_imported(f"_target_={target}", error) from error
    return found


def parameters(cls: type, given: int = 0) -> list[Parameter]:
    """The parameters of a class, in the order of its signature. given: how many come first and are the harness's."""
    meanings = _meanings(cls)
    limits: dict[str, Mapping[str, Any]] = {f.name: f.metadata for f in fields(cls)} if is_dataclass(cls) else {}
    kinds = _kinds(cls)
    return [
        Parameter(
            name,
            _default(cls, one),
            _range(kinds.get(name, one.annotation), limits.get(name, {})),
            meanings.get(name, ""),
        )
        for name, one in list(inspect.signature(cls).parameters.items())[given:]
        if name != "_"
    ]


def about(cls: type) -> str:
    """What a class is, with its source: the first paragraphs of its docstring, before its parameters."""
    text: list[str] = []
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():
        if ENTRY.match(line):
            break
        text.append(line)
    return " ".join(" ".join(text).split())


def _kinds(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls if is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    except (NameError, TypeError):  # names that are only there for a type checker
        return {}


def _default(cls: type, one: inspect.Parameter) -> Any:
    if one.default is inspect.Parameter.empty:
        return REQUIRED
    made = next((f for f in fields(cls) if f.name == one.name), None) if is_dataclass(cls) else None
    return made.default_factory() if made is not None and callable(made.default_factory) else one.default


def _range(kind: Any, limits: Mapping[str, Any]) -> str:
    choices = [choice for part in (kind, *get_args(kind)) if get_origin(part) is Literal for choice in get_args(part)]
    if choices:
        return " | ".join(map(str, choices))
    if kind is bool:
        return "true | false"
    low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g}"
    return f"≥ {low:g}" if math.isfinite(low) else f"≤ {high:g}" if math.isfinite(high) else ""


def _meanings(cls: type) -> dict[str, str]:
    """Of each parameter what the docstring of the class, or of one that it derives from, says."""
    found: dict[str, str] = {}
    for base in cls.__mro__:
        if base is not object:
            found = dict(_entries(base.__doc__ or "")) | found
    return found


def _entries(doc: str) -> Iterator[tuple[str, str]]:
    names: list[str] = []
    words: list[str] = []
    for line in [*inspect.cleandoc(doc).splitlines(), ""]:
        entry = ENTRY.match(line)
        if entry or not line.strip():
            yield from ((name, " ".join(words)) for name in names)
            names, words = [], []
        if entry:
            names, words = [name.strip("` ") for name in entry[1].split(",")], [entry[2]]
        elif names:
            words.append(line.strip())
