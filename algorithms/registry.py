"""Methods by name: the table, and how one is made from it.

The table is filled in `algorithms/__init__.py`, which knows every method; this module knows none, so that a method that
wraps another one can look it up here.
"""

from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any

from algorithms.interface import Algorithm

METHODS: dict[str, type[Algorithm]] = {}


def names() -> list[str]:
    """The registered methods, sorted."""
    return sorted(METHODS)


def parameters(name: str) -> list[str]:
    """The parameters of the method `name`, `aggregation` last. Raises ValueError for an unknown name."""
    own = [f.name for f in fields(_method(name)) if f.name != "aggregation"]
    return [*own, "aggregation"]


def make(name: str, **params: Any) -> Algorithm:
    """The method `name` with the given parameters.

    Raises ValueError on an unknown name or parameter, with the valid ones and the nearest; on a missing or bad value.
    """
    method, valid = _method(name), parameters(name)
    for key in params:
        if key not in valid:
            near = get_close_matches(key, valid, 1, 0.0)[0]
            raise ValueError(f"{name} has no parameter {key!r}; nearest: {near}; valid: {', '.join(valid)}")
    required = [f.name for f in fields(method) if f.default is MISSING and f.default_factory is MISSING]
    missing = [key for key in required if key not in params]
    if missing:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}; it has no agreed default")
    return method(**params)


def _method(name: str) -> type[Algorithm]:
    if name not in METHODS:
        near = get_close_matches(str(name), METHODS, 1, 0.0)[0]
        raise ValueError(f"unknown algorithm {name!r}; nearest: {near}; valid: {', '.join(names())}")
    return METHODS[name]
