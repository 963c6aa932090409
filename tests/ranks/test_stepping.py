"""AdamW over slices of a tensor: the bits of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.ranks.stepping import BLOCK, Window, again

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.01, "eps": 1e-8}
STEPS = 6


def gradients(whole: int) -> list[Tensor]:
    return [torch.randn(whole, generator=torch.Generator().manual_seed(step)) * 0.01 for step in range(STEPS)]


def by_torch(start: Tensor, cuts: list[int]) -> list[Tensor]:
    """Parameter, exp_avg and exp_avg_sq after some steps of torch's optimizer over the pieces."""
    pieces = [torch.nn.Parameter(piece.clone()) for piece in start.split(cuts)]
    optimizer = torch.optim.AdamW(pieces, fused=True, **SETTINGS)
    for gradient in gradients(len(start)):
        for piece, own in zip(pieces, gradient.split(cuts), strict=True):
            piece.grad = own.clone()
        optimizer.step()
    states = [torch.cat([optimizer.state[piece][name] for piece in pieces]) for name in ("exp_avg", "exp_avg_sq")]
    return [torch.cat([piece.detach() for piece in pieces]), *states]


def by_windows(start: Tensor, cuts: list[int]) -> list[Tensor]:
    """The same over buffers, a window a piece."""
    found: list[list[Tensor]] = []
    first = 0
    for length in cuts:
        window = Window(first, first + length, len(start))
        own = [start[first : first + length].clone(), torch.zeros(length), torch.zeros(length)]
        for number, gradient in enumerate(gradients(len(start)), 1):
            given = [own[0], gradient[first : first + length], *own[1:]]
            buffers = [window.buffer(piece) for piece in given]
            again(buffers, torch.tensor(float(number)), SETTINGS)
            own = [window.of(buffers[i]).clone() for i in (0, 2, 3)]
        found.append(own)
        first += length
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("cuts", [[22, 22, 20], [67, 67, 66], [1, 98, 101], [64, 64, 72], [5, 5, 5], [40, 0]])
def test_a_slice_has_the_bits_of_the_whole(cuts: list[int]) -> None:
    start = torch.randn(sum(cuts), generator=torch.Generator().manual_seed(99))
    whole = by_torch(start, [sum(cuts)])
    assert all(torch.equal(one, other) for one, other in zip(whole, by_windows(start, cuts), strict=True))


def test_what_begins_and_ends_with_a_block_needs_no_buffer() -> None:
    assert Window(0, 4096, 4096).is_aligned and Window(BLOCK, 3 * BLOCK, 200 * BLOCK).is_aligned
    assert Window(2 * BLOCK, 130, 130).is_aligned and Window(7, 7, 130).is_aligned
    assert not Window(0, 22, 64).is_aligned and not Window(22, 44, 64).is_aligned
