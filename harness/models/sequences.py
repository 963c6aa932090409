"""Rollouts as they are stored (unpadded) and as a model wants to see them (padded, prompts once a group)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    def padded_tokens(self) -> int:
        """Tokens a forward pass computes."""
        return self.prompt_ids.numel() + self.response_ids.numel()

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


def micro_batches(sequences: SequenceBatch, budget: int) -> list[tuple[Tensor, SequenceBatch]]:
    """Row indices ([b] int64, of the whole) and sequences of each micro-batch.

    Responses of a group stay together (their prompt is computed once), groups of similar length come
    together (little padding). One micro-batch, in the order given, if the whole fits.
    sequences: the whole.
    budget: padded tokens that a micro-batch may have, more only where a single row does.
    """
    device = sequences.group.device
    if sequences.padded_tokens <= budget:
        return [(torch.arange(len(sequences.group), device=device), sequences)]
    parts = [torch.tensor(part, device=device) for part in _row_parts(sequences, budget)]
    return [(rows, select(sequences, rows)) for rows in parts]


def _row_parts(sequences: SequenceBatch, budget: int) -> list[list[int]]:
    """The rows of each micro-batch. A device is asked for the lengths once, not row by row."""
    lengths, prompt_lengths = sequences.mask.sum(1).tolist(), sequences.prompt_lengths.tolist()
    members: list[list[int]] = [[] for _ in prompt_lengths]
    for row, group in enumerate(sequences.group.tolist()):
        members[group].append(row)
    longest = [
        prompt + max((lengths[row] for row in rows), default=0)
        for prompt, rows in zip(prompt_lengths, members, strict=True)
    ]
    parts: list[list[int]] = [[]]
    prompts = width = steps = 0
    for group in sorted(range(len(members)), key=lambda group: -longest[group]):
        fresh = 1  # prompts that the next row adds
        for row in members[group]:
            width, steps = max(width, prompt_lengths[group]), max(steps, lengths[row])
            if parts[-1] and (prompts + fresh) * width + (len(parts[-1]) + 1) * steps > budget:
                parts.append([])
                prompts, fresh, width, steps = 0, 1, prompt_lengths[group], lengths[row]
            parts[-1].append(row)
            prompts, fresh = prompts + fresh, 0
    return parts


def select(sequences: SequenceBatch, rows: Tensor) -> SequenceBatch:
    """The given rows, with only the prompts they need and no needless width. rows: [b] int64 indices."""
    prompts, group = torch.unique(sequences.group[rows], return_inverse=True)
    mask = sequences.mask[rows]
    width = max(int(mask.sum(1).max()), 1)
    lengths = sequences.prompt_lengths[prompts]
    return SequenceBatch(
        sequences.prompt_ids[prompts][:, : int(lengths.max())],
        lengths,
        group,
        sequences.response_ids[rows][:, :width],
        mask[:, :width],
    )


def in_order(rows: Sequence[Tensor], parts: Sequence[Tensor], width: int) -> Tensor:
    """What micro-batches of different widths gave → [B, width], in the order of the whole, 0 where none reached.

    rows: indices of each micro-batch's rows, as `micro_batches` gives them.
    parts: [b, t] of each.
    """
    return torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts])[torch.argsort(torch.cat(list(rows)))]
