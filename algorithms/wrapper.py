"""Methods that take another method and act on its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from algorithms.interface import Algorithm, TokenWeights

WIDTH = {"token": 0, "sequence": 1, "batch": 2}


@dataclass(frozen=True, kw_only=True)
class Wrapper(Algorithm):
    """base: name of the wrapped method; base_parameters: its parameters.

    What is not overridden comes from the base: scope (the wider of the two), needs, aggregation, objective.
    Raises ValueError as `make` does.
    """

    base: str = "grpo"
    base_parameters: Mapping[str, Any] = field(default_factory=dict)

    own_scope = "token"
    own_needs: Any = frozenset()

    @cached_property
    def inner(self) -> Algorithm:
        """The wrapped method."""
        from algorithms import make

        return make(self.base, **self.base_parameters)

    @property
    def scope(self) -> str:
        return max(self.inner.scope, self.own_scope, key=WIDTH.__getitem__)

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs | self.own_needs

    @property
    def published_aggregation(self) -> str:
        return str(self.inner.aggregation)


def multiply(inner: TokenWeights, factor: Tensor, dropped: Tensor | None, changed: Tensor) -> TokenWeights:
    """The inner weights times factor, 0 where dropped; [B,T] or [B,1]. Offsets are left as they are."""
    weights = (inner.weights * factor).masked_fill(~inner.kept, 0.0)
    acted = (changed & inner.counted) | inner.changed
    if dropped is None:
        return replace(inner, weights=weights, changed=acted)
    return replace(
        inner, weights=weights.masked_fill(dropped, 0.0), kept=inner.kept & ~dropped, changed=acted
    )
