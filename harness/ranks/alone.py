"""A learner of one process: what the learner asks of its ranks, and that there is nothing to do for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.models.policy import Policy

T = TypeVar("T")


class Alone:
    """The one rank of a learner that no other process shares.

    rank: of this process; rank 0 drives.
    world: how many there are.
    adamw: the optimizer's class.
    """

    rank, world = 0, 1
    adamw: type[torch.optim.AdamW] = torch.optim.AdamW

    def shard(self, policy: Policy, add: str) -> None:
        """Leaves every rank a slice of each parameter of a policy. add: its gradients, "ordered" or "fast"."""

    def order(self, name: str, *arguments: Any) -> None:
        """From rank 0: tells the other ranks what all are about to do; from another rank: nothing."""

    def deal(self, items: Sequence[T], idle: T) -> Iterable[T]:
        """This rank's items, one a round; in a last round that is not full, `idle` for a rank that has none left.

        idle: something small to compute, whose result is nobody's: all must take part in a round.
        """
        return items

    def accumulate(self, items: Sequence[T], idle: T) -> Iterable[T]:
        """Deals micro-batches out; the backward pass of each round adds them to the gradient."""
        return items

    def gather(self, own: Sequence[tuple[Tensor, ...]], count: int) -> list[tuple[Tensor, ...]]:
        """What all ranks made of the items that were dealt out, in the order of the items, on every rank.

        own: this rank's results, detached.
        count: of the items.
        """
        return list(own)

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor that the ranks hold in slices, in one piece, on every rank; any other as it is."""
        return tensor

    def together(self, own: Any) -> list[Any]:
        """A value of each rank, by rank."""
        return [own]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Says which rank has died where an error in the block comes of that. Raises Interrupted, RunFailed."""
        yield

    def close(self) -> None:
        """Dismisses the other ranks."""
