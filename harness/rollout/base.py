"""The class to derive a rollout engine from: what every engine needs that lives beside a trainer.

An engine samples; what its tokens are worth is the trainer's to say. So each engine holds a replica of the
trainer's model, takes every version into it, scores what was sampled with it, and is probed against it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from harness.config import Config
from harness.errors import RunFailed, UserError
from harness.models.loading import LoadedModel
from harness.models.policy import Policy
from harness.models.sequences import in_order, micro_batches, sequence_batch
from harness.rollout.interface import Newer, StateDict
from harness.types import Request, Rollouts

# Nats: what float32 leaves of different orders of summation, and what rounding to bfloat16 does.
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
PROBE_SEQUENCES, PROBE_TOKENS = 4, 16


class BaseEngine(ABC):
    """An engine named by `rollout._target_`, made as cls(config, trainer, version, **rollout.options).

    A subclass gives `sample`, and `take_weights` where it keeps weights of its own.

    config: of the run.
    trainer: a model of the trainer's; under driver=serial the trainer's own, else a replica.
    version: of the trainer's weights now; −1: none loaded yet.
    seconds: spent on generation, scoring and publication since somebody emptied it.

    updates_in_flight: it asks `newer` for weights while it generates, so rollout.inflight has a meaning.
    holds_weights: it has a copy of the weights beside the trainer's, for the estimate of memory.
    probed: compared with the trainer after every load.
    emulates_mismatch: it knows rollout.mismatch.
    continues: it knows request.begun, for staleness=partial.
    at_once: chunks that it has in flight at most; more than one need `submit` and `poll` (interface.Chunks).
    """

    updates_in_flight: ClassVar[bool] = False
    holds_weights: ClassVar[bool] = True
    probed: ClassVar[bool] = True
    emulates_mismatch: ClassVar[bool] = False
    continues: ClassVar[bool] = False

    def __init__(self, config: Config, trainer: LoadedModel, version: int = 0) -> None:
        self.version = version
        self.at_once = self.chunks_at_once(config)
        self.newer: Newer | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.config = config.rollout
        self._micro_batch_tokens = config.learner.micro_batch_tokens
        self.trainer = trainer
        self.end_tokens = trainer.end_tokens
        given = config.rollout.probe_tolerance
        self.probe_tolerance = PROBE_TOLERANCE[config.served_model.dtype or "float32"] if given is None else given
        self._prompts: Sequence[Sequence[int]] = ()  # of the last request, to probe with

    @classmethod
    def check(cls, config: Config) -> None:
        """Raises UserError for a run that this engine cannot serve."""
        if config.rollout.inflight != "drain" and not cls.updates_in_flight:
            raise UserError(
                f"rollout.inflight={config.rollout.inflight} with rollout={config.choices['rollout']}: "
                "only rollout=vllm can update in flight"
            )
        if str(config.staleness).startswith("partial") and not cls.continues:
            raise UserError(
                f"staleness={config.staleness} with rollout={config.choices['rollout']}: "
                "only rollout=torch carries on a response that another version began"
            )
        if config.rollout.mismatch != "none" and not cls.emulates_mismatch:
            raise UserError(
                f"rollout.mismatch={config.rollout.mismatch} with rollout={config.choices['rollout']}: "
                "expected none; only rollout=torch emulates a mismatch, other engines have their own"
            )

    @classmethod
    def needs_replica(cls, config: Config) -> bool:
        """Whether it computes anything with the trainer's model; else its replica has no weights."""
        return True

    @classmethod
    def chunks_at_once(cls, config: Config) -> int:
        """Chunks in flight at most."""
        return 1

    @abstractmethod
    def sample(self, request: Request) -> Rollouts:
        """Samples of the weights last loaded, made with `to_rollouts` (harness/rollout/interface.py).

        Their log-probs are those of softmax(logits / request.temperature). Each sample depends on its own key
        alone; at temperature 0 it is greedy. request.top_p is below 1 in evaluations only (eval.top_p).
        """

    def take_weights(self, weights: StateDict) -> None:  # noqa: B027 (a hook)
        """Hands the trainer's whole state dict, just loaded, to what samples. By default that is the trainer."""

    def load(self, version: int, weights: StateDict) -> None:
        """Takes over a version. Raises RunFailed when the engine does not compute what the trainer computes."""
        self.newer = None
        with self.timed("publication"):
            self.take_weights(self.to_trainer(version, weights))
            if self.probed:
                self.probe()

    @torch.no_grad()
    def generate(self, request: Request) -> Rollouts:
        """Samples, with the trainer's log-probs where they are used and there is a temperature."""
        self._prompts = request.prompts[:PROBE_SEQUENCES]
        with self.timed("generation"):
            rollouts = self.sample(request)
        return self.scored_if_used(rollouts, request)

    def scored_if_used(self, rollouts: Rollouts, request: Request) -> Rollouts:
        """The samples of a request, with the trainer's log-probs where it asks for them."""
        if not self.scores(request):
            return rollouts
        with self.timed("scoring"):
            return self.scored(rollouts, request.temperature)

    def scores(self, request: Request) -> bool:
        """Whether the samples of a request get the trainer's log-probs."""
        return self.config.behaviour == "trainer" and request.temperature > 0 and request.logprobs

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds of the block to `seconds`; what it computes must be on the CPU at its end."""
        started = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - started

    def scored(self, rollouts: Rollouts, temperature: float) -> Rollouts:
        """The rollouts with the trainer's log-probs, in the learner's micro-batches: nothing grows with the batch."""
        return scored(self.trainer.policy, rollouts, temperature, self._micro_batch_tokens)

    def close(self) -> None:  # noqa: B027 (a hook)
        """Releases what the engine holds; by default there is nothing."""

    def to_trainer(self, version: int, weights: StateDict) -> StateDict:
        """Copies the weights into the trainer's model, unless they are its own tensors (driver=serial) or it has none.

        Returns the model's whole state dict, tied tensors included.
        """
        self.version = version
        own = self.trainer.module.state_dict()
        if any(tensor.is_meta for tensor in own.values()):
            return weights
        with torch.no_grad():
            for name, tensor in own.items():
                if tensor.data_ptr() != weights[name].data_ptr():
                    tensor.copy_(weights[name])
        return own

    @torch.no_grad()
    def probe(self) -> None:
        """Raises RunFailed unless the engine's log-probs of a few sequences are the trainer's."""
        self.compare(self.scored(self.probe_rollouts(), 1.0))

    def compare(self, rollouts: Rollouts) -> None:
        """Raises RunFailed where the engine's log-probs and the trainer's are further apart than the tolerance."""
        off = (rollouts.logp_engine - rollouts.logp_behaviour).abs().mean().item()
        if not off <= self.probe_tolerance:
            raise RunFailed(
                f"{type(self).__name__} does not serve version {self.version}: its log-probs are {off:.3g} nats off "
                f"the trainer's on average over {len(rollouts.response_ids)} tokens "
                f"(rollout.probe_tolerance={self.probe_tolerance:g})"
            )

    def probe_rollouts(self) -> Rollouts:
        """A few sequences with the log-probs that the engine gives them now, at temperature 1: sampled anew, from
        prompts of the last request or, before the first, from any."""
        vocabulary = self.trainer.module.config.get_text_config().vocab_size
        prompts = self._prompts or [[token % vocabulary] for token in range(PROBE_SEQUENCES)]
        keys = np.arange(len(prompts), dtype=np.uint64)[:, None]
        return self.sample(Request(prompts, keys, 1.0, min(PROBE_TOKENS, self.config.max_new_tokens)))


@torch.no_grad()
def scored(policy: Policy, rollouts: Rollouts, temperature: float, budget: int | None = None) -> Rollouts:
    """The rollouts with logp_behaviour as `policy` computes it when it trains: teacher-forced passes.

    budget: padded tokens of a pass (`micro_batches`); None: one pass for all.
    """
    batch = sequence_batch(rollouts, policy.model.device)
    micro = micro_batches(batch, batch.padded_tokens if budget is None else budget)
    parts = [policy.score(sequences, temperature).logp for _, sequences in micro]
    logp = in_order([rows for rows, _ in micro], parts, batch.mask.shape[1])[batch.mask]
    return replace(rollouts, logp_behaviour=logp.cpu().float())
