"""The parameters of a method: what a field of its dataclass may hold, checked when it is made."""

import math
from collections.abc import Mapping
from dataclasses import field, fields
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin


def number(
    default: float | None = None, *, low: float = -math.inf, high: float = math.inf, required: bool = False
) -> Any:
    """A numeric parameter of a method, as a field of its dataclass.

    default: its value if not given; None makes None valid too.
    low, high: its inclusive range.
    required: whether it has no default.
    """
    metadata = {"low": low, "high": high}
    return field(metadata=metadata) if required else field(default=default, metadata=metadata)


def check_parameters(method: Any) -> None:
    """Raise a one-line ValueError if a field of the dataclass `method` does not fit its annotation or its range."""
    owner = type(method).__name__
    for f in fields(method):
        _check(f"{owner}: {f.name}", getattr(method, f.name), f.type, f.metadata)
    for kind in ("ratio", "weight"):
        low, high = getattr(method, f"{kind}_low", 0), getattr(method, f"{kind}_high", 0)
        if low > high:
            raise ValueError(f"{owner}: {kind}_low={low} is above {kind}_high={high}")


def _check(name: str, value: Any, kind: Any, limits: Mapping[str, Any]) -> None:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            near = get_close_matches(str(value), [str(c) for c in choices], 1, 0.0)[0]
            raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}; nearest: {near}")
    elif kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}; expected true or false")
    elif kind is float or (kind == float | None and value is not None):
        low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name}={value!r}; expected a number from {low:g} to {high:g}")
