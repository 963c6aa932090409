"""How the gradients of the ranks become one: FSDP's reduce-scatter, in the order of one process or as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Its name since torch 2.13, and the one before.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class OrderedSum:
    """A reduce-scatter with the bits of one process: the micro-batches' parts are added in their order.

    Every rank receives the part of the gradient that it owns from each of the others and adds them itself, micro-batch
    by micro-batch, onto what the rounds before have left, as one process adds to `.grad`. So `.grad` must be empty
    before each round (`keeps_the_sum`): the sum so far is here.
    """

    keeps_the_sum = True

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._left = 0

    def start(self, micro_batches: int) -> None:
        """Begins the gradient of a mini-batch of so many micro-batches."""
        self._total, self._left = None, micro_batches

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        """One round. input [world · n]: this rank's gradient, by owner; output [n]: the sum so far of what it owns."""
        world = group.size()
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        for part in received.view(world, -1)[: self._left]:  # idle ranks' parts come last and are nobody's
            self._total = part.clone() if self._total is None else self._total.add_(part)
        self._left -= min(world, self._left)
        assert self._total is not None
        output_tensor.copy_(self._total)


class FastSum:
    """The back end's own reduce-scatter: less traffic between nodes, and bits that depend on the number of ranks."""

    keeps_the_sum = False

    def __init__(self) -> None:
        self._left = 0

    def start(self, micro_batches: int) -> None:
        """Begins the gradient of a mini-batch of so many micro-batches."""
        self._left = micro_batches

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        """One round. input [world · n]: this rank's gradient, by owner; output [n]: the round's sum of what it owns."""
        if dist.get_rank(group) >= self._left:  # idle in the last round: its gradient is nobody's
            input_tensor.zero_()
        self._left -= min(group.size(), self._left)
        _reduce_scatter(output_tensor, input_tensor, op=op, group=group)


SUMS = {"ordered": OrderedSum, "fast": FastSum}
