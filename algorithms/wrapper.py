"""Methods that take another method and act on its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from algorithms.importance import Bounded
from algorithms.interface import Algorithm, TokenStats, TokenWeights

WIDTH = {"token": 0, "sequence": 1, "batch": 2}


@dataclass(frozen=True, kw_only=True)
class Wrapper(Algorithm):
    """base: name of the wrapped method; base_parameters: its parameters.

    What is not overridden comes from the base: scope (the wider of the two), needs, aggregation, objective.
    Raises ValueError as `make` does.
    """

    base: str = "grpo"
    base_parameters: Mapping[str, Any] = field(default_factory=dict)

    own_scope: ClassVar[str] = "token"
    own_needs: ClassVar[Any] = frozenset()

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


def multiply(stats: TokenStats, inner: TokenWeights, factor: Bounded) -> TokenWeights:
    """The inner weights times the factor's, 0 where it falls; [B,T] or [B,1]. Offsets are left as they are."""
    weight, kept, changed = factor
    acted = inner.changed if changed is None else inner.changed | (stats.mask & changed)
    if kept is None:
        return replace(inner, weights=inner.weights * weight, changed=acted)
    acted = acted | (stats.mask & ~kept)
    return replace(inner, weights=inner.weights * weight, kept=inner.kept & kept, changed=acted)
