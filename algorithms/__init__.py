"""Stabilisers of off-policy RL: each a function from token statistics to per-token weights."""

from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from typing import Any

from algorithms.aggregation import AGGREGATIONS, token_scale
from algorithms.bapo import BAPO
from algorithms.cispo import CISPO
from algorithms.decoupled import Decoupled
from algorithms.diagnostics import diagnose
from algorithms.dppo import DPPO
from algorithms.engine_mismatch import EngineMismatch
from algorithms.gppo import GPPO
from algorithms.grpo import GRPO
from algorithms.gspo import GSPO
from algorithms.gspo_token import GSPOToken
from algorithms.interface import (
    Algorithm,
    LossOutput,
    TokenStats,
    TokenWeights,
    coefficients,
    number,
    weigh,
    weighted_nll,
)
from algorithms.m2_penalty import M2Penalty
from algorithms.m2po import M2PO
from algorithms.mis import MIS
from algorithms.no_trust_region import NoTrustRegion
from algorithms.opsm import OPSM
from algorithms.sapo import SAPO
from algorithms.tis import TIS
from algorithms.topr import TOPR

METHODS: dict[str, type[Algorithm]] = {
    "bapo": BAPO,
    "cispo": CISPO,
    "decoupled": Decoupled,
    "dppo": DPPO,
    "engine_mismatch": EngineMismatch,
    "gppo": GPPO,
    "grpo": GRPO,
    "gspo": GSPO,
    "gspo_token": GSPOToken,
    "m2_penalty": M2Penalty,
    "m2po": M2PO,
    "mis": MIS,
    "no_trust_region": NoTrustRegion,
    "opsm": OPSM,
    "sapo": SAPO,
    "tis": TIS,
    "topr": TOPR,
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
    missing = [f.name for f in fields(method) if _required(f) and f.name not in params]
    if missing:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}; it has no agreed default")
    return method(**params)


def _method(name: str) -> type[Algorithm]:
    if name not in METHODS:
        near = get_close_matches(str(name), METHODS, 1, 0.0)[0]
        raise ValueError(f"unknown algorithm {name!r}; nearest: {near}; valid: {', '.join(names())}")
    return METHODS[name]


def _required(parameter: Field[Any]) -> bool:
    return parameter.default is MISSING and parameter.default_factory is MISSING


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
    "number",
    "parameters",
    "token_scale",
    "weigh",
    "weighted_nll",
]
