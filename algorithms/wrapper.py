"""Methods that take another method and act on its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from algorithms.importance import Bounded
from algorithms.interface import Algorithm, TokenStats, TokenWeights
from algorithms.registry import make

WIDTH = {"token": 0, "sequence": 1, "batch": 2}


@dataclass(frozen=True, kw_only=True)
class Wrapper(Algorithm):
    """Base of a method around another one.

    base: name of the wrapped method.
    base_parameters: its parameters.

    What is not overridden comes from the base: scope (the wider of the two), needs, aggregation. Raises ValueError as
    `make` does.
    """

    base: str = "grpo"
    base_parameters: Mapping[str, Any] = field(default_factory=dict)

    own_scope: ClassVar[Any] = "token"
    own_needs: ClassVar[Any] = frozenset()

    @cached_property
    def inner(self) -> Algorithm:
        """The wrapped method."""
        return make(self.base, **self.base_parameters)

    @property
    def scope(self) -> str:
        """The wider of the wrapper's own and its base's."""
        return max(self.inner.scope, self.own_scope, key=WIDTH.__getitem__)

    @property
    def needs(self) -> frozenset[str]:
        """What either needs."""
        return self.inner.needs | self.own_needs

    @property
    def published_aggregation(self) -> str:
        """The base's."""
        return str(self.inner.aggregation)


def multiply(stats: TokenStats, inner: TokenWeights, factor: Bounded) -> TokenWeights:
    """The inner weights and offsets times a factor, [B,T] or [B,1]."""
    return replace(
        inner,
        weights=inner.weights * factor.weight,
        offsets=inner.offsets * factor.weight,
        kept=inner.kept & factor.kept,
        changed=inner.changed | (stats.mask & factor.changed),
    )
