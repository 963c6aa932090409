"""Stabilisers of off-policy RL: each a function from token statistics to per-token weights."""

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from algorithms.aggregation import AGGREGATIONS, token_scale
from algorithms.diagnostics import diagnose
from algorithms.grpo import GRPO
from algorithms.gspo import GSPO
from algorithms.interface import (
    Algorithm,
    LossOutput,
    TokenStats,
    TokenWeights,
    coefficients,
    weigh,
    weighted_nll,
)
from algorithms.m2po import M2PO
from algorithms.no_trust_region import NoTrustRegion
from algorithms.tis import TIS

METHODS: dict[str, type[Algorithm]] = {
    "grpo": GRPO,
    "gspo": GSPO,
    "m2po": M2PO,
    "no_trust_region": NoTrustRegion,
    "tis": TIS,
}


def names() -> list[str]:
    """The registered methods, sorted."""
    return sorted(METHODS)


def parameters(name: str) -> list[str]:
    """The parameters of a method, `aggregation` last. Raises ValueError for an unknown name."""
    own = [f.name for f in fields(_method(name)) if f.name != "aggregation"]
    return [*own, "aggregation"]


def make(name: str, **params: Any) -> Algorithm:
    """Build a method by name. Raises ValueError, with the nearest valid name.

    On an unknown name or parameter.
    """
    method, valid = _method(name), parameters(name)
    for key in params:
        if key not in valid:
            near = get_close_matches(key, valid, 1, 0.0)[0]
            raise ValueError(f"{name} has no parameter {key!r}; nearest: {near}; valid: {', '.join(valid)}")
    return method(**params)


def _method(name: str) -> type[Algorithm]:
    if name not in METHODS:
        near = get_close_matches(str(name), METHODS, 1, 0.0)[0]
        raise ValueError(f"unknown algorithm {name!r}; nearest: {near}; valid: {', '.join(names())}")
    return METHODS[name]


__all__ = [
    "AGGREGATIONS",
    "METHODS",
    "Algorithm",
    "LossOutput",
    "TokenStats",
    "TokenWeights",
    "coefficients",
    "diagnose",
    "make",
    "names",
    "parameters",
    "token_scale",
    "weigh",
    "weighted_nll",
]
