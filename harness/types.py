"""Every type that flows: problem → request → rollouts → chunk → batch → graded rollouts → update.

No behaviour beyond cutting and joining; nothing here knows a model, an engine or a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """One problem.

    id      unique within the task, the same in every run (used to prove that splits do not overlap)
    prompt  text before the model's chat or plain template is applied
    answer  reference answer, in whatever form the task's own grader reads
    data    further columns the grader wants
    """

    id: str
    prompt: str
    answer: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """reward as trained on (usually 0 or 1); correct counts for accuracy; failure names a grader's
    time-out or crash ("" if none), which is reward 0 and counted; parts are named numbers behind the reward."""

    reward: float
    correct: bool
    failure: str = ""
    parts: dict[str, float] = field(default_factory=dict)


class Grades(Protocol):
    """Whatever can tell right from wrong."""

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each pair. Never raises on account of a response's text."""
        ...


@dataclass(frozen=True)
class Request:
    """Prompts to answer, `samples` times each.

    prompts  token ids of each prompt
    keys     uint64 [len(prompts), samples]: the counter-based seed of each sample, so that the same request
             gives the same tokens whoever serves it and whatever else is served beside it
    temperature 0 means greedy
    top_p       sample only from the likeliest tokens that together hold this share; 1: from all (training)
    logprobs    whether anything uses the log-probs of the samples; if not, they may be NaN
    begun       rollouts of the same prompts and keys by an earlier version, whose responses' beginnings are kept
    cuts        int [len(prompts), samples]: how many tokens of each, at most
    """

    prompts: Sequence[Sequence[int]]
    keys: np.ndarray
    temperature: float
    max_new_tokens: int
    top_p: float = 1.0
    logprobs: bool = True
    begun: Rollouts | None = None
    cuts: np.ndarray | None = None

    @property
    def samples(self) -> int:
        return self.keys.shape[1]


def part(prompts: int, chunks: int, index: int) -> range:
    """Which of a batch's prompts are its chunk `index`: contiguous parts, sizes as equal as possible."""
    edges = np.linspace(0, prompts, chunks + 1).round().astype(int).tolist()
    return range(edges[index], edges[index + 1])


@dataclass(frozen=True)
class Rollouts:
    """G prompts with B = G·n responses, unpadded: what the rollout queue and a checkpoint hold (on the CPU).

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
    """The rollouts of several chunks as one batch, in the order given."""
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
class Chunk:
    """One chunk as it leaves the rollout queue.

    trained: False where its samples are too stale and take their place in the batch masked ·
    queue_s: seconds since it was generated · publish_lag: updates that had been made and that the engine did
    not have when it finished
    """

    index: int
    rollouts: Rollouts
    trained: bool
    queue_s: float
    publish_lag: int

    @property
    def version(self) -> int:
        """The oldest version that sampled one of its tokens."""
        return int(self.rollouts.version.min()) if len(self.rollouts.version) else 0


@dataclass(frozen=True)
class Batch:
    """What one step trains on, and what was too stale for it and thrown away."""

    chunks: list[Chunk]
    dropped: list[Chunk]


@dataclass(frozen=True)
class GradedRollouts:
    """rewards float64 [B] · trained bool [B], False where a response is left out of the loss: a truncated one, or one
    of a chunk that is too stale."""

    rollouts: Rollouts
    rewards: Tensor
    trained: Tensor

    def prompts(self, first: int, last: int) -> GradedRollouts:
        """The graded rollouts of prompts first … last−1."""
        rows = (self.rollouts.group >= first) & (self.rollouts.group < last)
        return GradedRollouts(self.rollouts.prompts(first, last), self.rewards[rows], self.trained[rows])

    def minibatches(self, count: int) -> list[GradedRollouts]:
        """`count` parts of contiguous prompts."""
        edges = torch.linspace(0, self.rollouts.n_prompts, count + 1).round().long().tolist()
        return [self.prompts(first, last) for first, last in pairwise(edges)]


@dataclass(frozen=True)
class Refusal:
    """An update that was not made: weights and optimizer are untouched, and the version counts on.

    reason: what was not finite or too large.
    tensors: the mini-batch and what came of it, on the CPU, for the dump.
    """

    reason: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """What one update leaves behind.

    metrics: the learner's part of the row for metrics.jsonl.
    refusal: None if the update was made (or had no token to learn from).
    tokens: columns of one value a valid token, [N] each, where `record.tokens` asks for them.
    """

    metrics: dict[str, Any]
    refusal: Refusal | None
    tokens: dict[str, Tensor] | None
