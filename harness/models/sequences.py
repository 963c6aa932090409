"""Rollouts as they are stored (unpadded) and as a model wants to see them (padded, prompts once a group)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.types import Rollouts


@dataclass(frozen=True)
class SequenceBatch:
    """G prompts and B responses, padded on the right, on the model's device.

    prompt_ids: int64 [G, P].
    prompt_lengths: int64 [G], tokens.
    group: int64 [B], the prompt of each response.
    response_ids: int64 [B, T].
    mask: bool [B, T], True on valid response tokens.
    """

    prompt_ids: Tensor
    prompt_lengths: Tensor
    group: Tensor
    response_ids: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """Position of each response token in its sequence, int64 [B, T]."""
        steps = torch.arange(self.response_ids.shape[1], device=self.group.device)
        return self.prompt_lengths[self.group][:, None] + steps


def pad(values: Tensor, lengths: Tensor, width: int | None = None) -> Tensor:
    """Rows of different lengths as one matrix.

    values: [sum of lengths], the rows one after the other.
    lengths: int [rows].
    width: columns; None: the longest row's.
    Returns [rows, width], zeros on the right.
    """
    width = int(lengths.max()) if width is None else width
    mask = torch.arange(width) < lengths[:, None]
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(mask, values)


def sequence_batch(rollouts: Rollouts, device: torch.device | str) -> SequenceBatch:
    """Pads rollouts for a model.

    rollouts: G prompts with B responses.
    device: the model's.
    """
    width = max(int(rollouts.response_lengths.max()), 1)
    return SequenceBatch(
        prompt_ids=pad(rollouts.prompt_ids, rollouts.prompt_lengths).long().to(device),
        prompt_lengths=rollouts.prompt_lengths.long().to(device),
        group=rollouts.group.long().to(device),
        response_ids=pad(rollouts.response_ids, rollouts.response_lengths, width).long().to(device),
        mask=(torch.arange(width) < rollouts.response_lengths[:, None]).to(device),
    )
