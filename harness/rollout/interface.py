"""What a rollout engine is: weights of one version in, sampled sequences with their log-probs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.types import Request, Rollouts

StateDict = dict[str, Tensor]
Newer = Callable[[], tuple[int, StateDict] | None]


class RolloutEngine(Protocol):
    """`version` is that of the weights last loaded; `generate` samples from exactly those.

    weights: a StateDict, or what the weight store keeps in its place (a reference).
    newer: where an engine can change its weights while it generates (rollout.inflight), what it asks for them.
    """

    version: int
    newer: Newer | None

    def load(self, version: int, weights: Any) -> None: ...

    def generate(self, request: Request) -> Rollouts: ...

    def close(self) -> None: ...


def to_rollouts(
    prompts: Sequence[Sequence[int]],
    samples: int,
    response_ids: Tensor,
    mask: Tensor,
    logp_engine: Tensor,
    logp_behaviour: Tensor,
    version: int,
    finished: Tensor,
) -> Rollouts:
    """Padded [B, T] tensors → unpadded rollouts on the CPU."""
    mask = mask.cpu()
    ids = response_ids.cpu()[mask].int()
    return Rollouts(
        prompt_ids=torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.int32),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32),
        group=torch.arange(len(prompts), dtype=torch.int32).repeat_interleave(samples),
        response_ids=ids,
        response_lengths=mask.sum(1).int(),
        logp_engine=logp_engine.cpu()[mask].float(),
        logp_behaviour=logp_behaviour.cpu()[mask].float(),
        version=torch.full((len(ids),), version, dtype=torch.int32),
        finished=finished.cpu(),
    )


def batched(request: Request, prompts: int) -> Iterator[Request]:
    """The request in parts of at most `prompts` prompts, to bound memory."""
    for start in range(0, len(request.prompts), prompts):
        part = slice(start, start + prompts)
        yield Request(request.prompts[part], request.keys[part], request.temperature, request.max_new_tokens)
