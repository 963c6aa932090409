"""Rollouts as they are stored (unpadded) and as a model wants to see them (padded, prompts once a group)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rollouts:
    """G prompts with B = G·n responses, unpadded: what the delay line and a checkpoint hold (on the CPU).

    prompt_ids        int32 [sum of prompt lengths]
    prompt_lengths    int32 [G]
    group             int32 [B], the prompt of each response
    response_ids      int32 [N], N = sum of response lengths, the end token included where there is one
    response_lengths  int32 [B]
    logp_engine       float32 [N], as the engine that sampled reports it
    logp_behaviour    float32 [N], the same policy in trainer numerics
    version           int32 [N], number of updates of the policy that sampled the token
    finished          bool [B], ended by an end token (False: truncated at the length limit)
    """

    prompt_ids: Tensor
    prompt_lengths: Tensor
    group: Tensor
    response_ids: Tensor
    response_lengths: Tensor
    logp_engine: Tensor
    logp_behaviour: Tensor
    version: Tensor
    finished: Tensor

    @property
    def n_responses(self) -> int:
        return len(self.response_lengths)

    @property
    def n_prompts(self) -> int:
        return len(self.prompt_lengths)

    def tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def prompts(self, first: int, last: int) -> Rollouts:
        """The rollouts of prompts first … last−1 (responses lie in the order of their prompts)."""
        p = _bounds(self.prompt_lengths, first, last)
        rows = torch.searchsorted(self.group, torch.tensor([first, last], dtype=self.group.dtype)).tolist()
        r = slice(*rows)
        t = _bounds(self.response_lengths, *rows)
        return Rollouts(
            prompt_ids=self.prompt_ids[p],
            prompt_lengths=self.prompt_lengths[first:last],
            group=self.group[r] - first,
            response_ids=self.response_ids[t],
            response_lengths=self.response_lengths[r],
            logp_engine=self.logp_engine[t],
            logp_behaviour=self.logp_behaviour[t],
            version=self.version[t],
            finished=self.finished[r],
        )

    def responses(self) -> list[list[int]]:
        """Token ids of every response, as Python lists."""
        return [part.tolist() for part in self.response_ids.split(self.response_lengths.tolist())]


def concatenate(parts: Sequence[Rollouts]) -> Rollouts:
    """The rollouts of several shards as one batch, in the order given."""
    offsets = [0]
    for part in parts:
        offsets.append(offsets[-1] + part.n_prompts)
    joined = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0].tensors() if name != "group"
    }
    group = torch.cat([part.group + offset for part, offset in zip(parts, offsets, strict=False)])
    return Rollouts(group=group, **joined)


def _bounds(lengths: Tensor, first: int, last: int) -> slice:
    start = int(lengths[:first].sum())
    return slice(start, start + int(lengths[first:last].sum()))


@dataclass(frozen=True)
class SequenceBatch:
    """Padded on the right, on the model's device. Responses of a group share their prompt's row.

    prompt_ids int64 [G, P] · prompt_lengths int64 [G] · group int64 [B]
    response_ids int64 [B, T] · mask bool [B, T], True on valid response tokens
    """

    prompt_ids: Tensor
    prompt_lengths: Tensor
    group: Tensor
    response_ids: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """int64 [B, T]: position of each response token in its sequence."""
        steps = torch.arange(self.response_ids.shape[1], device=self.group.device)
        return self.prompt_lengths[self.group][:, None] + steps


def pad(values: Tensor, lengths: Tensor, width: int | None = None) -> Tensor:
    """Unpadded rows [sum of lengths] → [rows, width], zeros on the right."""
    width = int(lengths.max()) if width is None else width
    mask = torch.arange(width) < lengths[:, None]
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(mask, values)


def sequence_batch(rollouts: Rollouts, device: torch.device | str) -> SequenceBatch:
    """Pads rollouts for a model on `device`."""
    width = max(int(rollouts.response_lengths.max()), 1)
    return SequenceBatch(
        prompt_ids=pad(rollouts.prompt_ids, rollouts.prompt_lengths).long().to(device),
        prompt_lengths=rollouts.prompt_lengths.long().to(device),
        group=rollouts.group.long().to(device),
        response_ids=pad(rollouts.response_ids, rollouts.response_lengths, width).long().to(device),
        mask=(torch.arange(width) < rollouts.response_lengths[:, None]).to(device),
    )
