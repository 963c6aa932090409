"""AdamW that gives an element the same bits whichever slice of its parameter it lies in.

On a CPU torch's fused AdamW computes whole vectors of elements and, one by one and rounded otherwise, what is left at
the end. Of a slice other elements are left than of the whole tensor. So a slice that does not begin and end where
blocks of the whole do is computed in a buffer, surrounded by as many zeros as complete its blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from harness.ranks.sharding import rows_of

BLOCK = 64  # elements, a multiple of the vectors of every processor
STATE = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Window:
    """Where a slice of a tensor lies: elements first to last (exclusive) of `whole`."""

    first: int
    last: int
    whole: int

    @property
    def before(self) -> int:
        """Elements of the whole between the beginning of the slice's first block and the slice."""
        return self.first % BLOCK

    @property
    def length(self) -> int:
        """Of the buffer: from the beginning of the first block to the end of the last, or of the whole."""
        return min(-(-self.last // BLOCK) * BLOCK, self.whole) - self.first + self.before

    @property
    def is_aligned(self) -> bool:
        """Whether no buffer is needed."""
        return self.last - self.first in (0, self.length)

    def buffer(self, piece: Tensor) -> Tensor:
        """The slice among zeros, [length]. piece: [last − first] in any shape."""
        buffer = piece.new_zeros(self.length)
        self.of(buffer).copy_(piece.flatten())
        return buffer

    def of(self, buffer: Tensor) -> Tensor:
        """The slice within its buffer."""
        return buffer[self.before : self.before + self.last - self.first]


class SlicedAdamW(torch.optim.AdamW):
    """torch's fused AdamW over parameters of which a rank holds slices."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step. closure: None."""
        found = [
            (group, p, window)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None and not (window := window_of(p)).is_aligned
        ]
        before = [[window.buffer(piece) for piece in self._pieces(p)] for _, p, window in found]
        result = super().step(closure)
        for (group, p, window), buffers in zip(found, before, strict=True):
            again(buffers, self.state[p]["step"], group)
            for piece, buffer in zip(self._pieces(p), buffers, strict=True):
                piece.copy_(window.of(buffer).view_as(piece))
        return result

    def _pieces(self, parameter: Tensor) -> list[Tensor]:
        """This rank's slice of a parameter, its gradient and its state (zeros before the first step)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        own, gradient = _local(parameter), _local(parameter.grad)
        return [own, gradient, *(_local(state[name]) if name in state else torch.zeros_like(own) for name in STATE)]


def window_of(parameter: Tensor) -> Window:
    """The slice of a parameter that this rank holds; all of one that is not cut, or not on a CPU."""
    if not isinstance(parameter, DTensor) or parameter.device.type != "cpu":
        return Window(0, parameter.numel(), parameter.numel())
    first, last = rows_of(parameter)
    row = parameter.numel() // parameter.shape[0]
    return Window(first * row, last * row, parameter.numel())


def again(buffers: list[Tensor], step: Tensor, group: dict[str, Any]) -> None:
    """A step of AdamW on buffers. buffers: parameter, gradient, exp_avg, exp_avg_sq, all [length].

    step: its number, as the state has it after the step. group: of the optimizer, with its settings.
    """
    parameters, gradients, averages, squares = ([buffer] for buffer in buffers)
    torch._fused_adamw_(
        parameters,
        gradients,
        averages,
        squares,
        [],
        [step],
        amsgrad=False,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
