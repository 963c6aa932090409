"""What a rollout engine is: weights of one version in, sampled sequences with their log-probs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.types import Request, Rollouts

StateDict = dict[str, Tensor]
Newer = Callable[[], tuple[int, StateDict] | None]


class Engine(Protocol):
    """What a driver needs of an engine, whichever way it is given chunks.

    version: of the weights last loaded; it samples from exactly those.
    seconds: spent on generation, scoring and publication since somebody emptied it.
    newer: where an engine can change its weights while it generates (rollout.inflight), what it asks for them.
    """

    version: int
    newer: Newer | None
    seconds: dict[str, float]

    def load(self, version: int, weights: Any) -> None:
        """weights: a StateDict, or what the weight store keeps in its place (a reference)."""
        ...

    def close(self) -> None: ...


class RolloutEngine(Engine, Protocol):
    """An engine that samples a chunk from beginning to end; harness.rollout.base.BaseEngine is the class to derive
    one from."""

    def generate(self, request: Request) -> Rollouts: ...


@runtime_checkable
class Chunks(Protocol):
    """An engine, or what stands before one, with chunks under way: as sequences of one end, those of the next begin.

    All are sampled by the version that is loaded; another one is loaded when none is running.

    at_once: how many there may be.
    """

    at_once: int

    def submit(self, number: int, request: Request) -> None:
        """Begins a chunk beside those that are running. number: its name until it is done."""
        ...

    def poll(self) -> dict[int, Rollouts]:
        """Goes on with the chunks, of which there is one at least, and returns those that are done by number."""
        ...


class OneByOne:
    """The chunks of an engine that samples each from beginning to end."""

    at_once = 1

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine
        self._waiting: dict[int, Request] = {}

    def submit(self, number: int, request: Request) -> None:
        self._waiting[number] = request

    def poll(self) -> dict[int, Rollouts]:
        number = next(iter(self._waiting))
        return {number: self._engine.generate(self._waiting.pop(number))}


def chunks_of(engine: Any) -> Chunks:
    """What takes an engine's chunks: the engine itself where it has several under way."""
    return engine if isinstance(engine, Chunks) else OneByOne(engine)


def to_rollouts(
    request: Request,
    response_ids: Tensor,
    response_lengths: Tensor,
    logp: Tensor,
    version: int | Tensor,
    end_tokens: Sequence[int],
) -> Rollouts:
    """Sampled tokens → rollouts on the CPU, the engine's log-probs standing for the trainer's as well.

    request: what was sampled: G prompts, n samples each; responses lie in the order of their prompts.
    response_ids: int [N], the tokens of all responses one after the other, end tokens included.
    response_lengths: int [B], B = G·n, tokens of each response, at least 1.
    logp: float [N], log-prob of each token under the distribution it was sampled from.
    version: that sampled them, one for all or int [N].
    end_tokens: a response that ends with one of them is finished, any other is truncated.
    """
    ids, lengths, logp = response_ids.cpu().int(), response_lengths.cpu().int(), logp.cpu().float()
    prompts = request.prompts
    return Rollouts(
        prompt_ids=torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.int32),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32),
        group=torch.arange(len(prompts), dtype=torch.int32).repeat_interleave(request.samples),
        response_ids=ids,
        response_lengths=lengths,
        logp_engine=logp,
        logp_behaviour=logp,
        version=torch.as_tensor(version, dtype=torch.int32).expand(len(ids)).clone(),
        finished=torch.isin(ids[lengths.cumsum(0) - 1], torch.tensor(end_tokens)),
    )


def batched(request: Request, prompts: int) -> Iterator[Request]:
    """The request in parts of at most `prompts` prompts, to bound memory."""
    for start in range(0, len(request.prompts), prompts):
        part = slice(start, start + prompts)
        yield replace(request, prompts=request.prompts[part], keys=request.keys[part])
