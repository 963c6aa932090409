"""A graded rollout batch, cut into mini-batches (one an update) and those into micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from algorithms import TokenStats
from harness.models.sequences import SequenceBatch, pad, select, sequence_batch
from harness.types import GradedRollouts


@dataclass(frozen=True)
class MiniBatch:
    """What one update learns from, padded to B responses of T tokens, on the device.

    sequences: prompts and responses; its mask leaves out responses that are not trained on.
    response_lengths: [B] int, tokens of each response as generated, trained on or not.
    logp_behaviour: [B,T] float32, nats, under the policy that sampled, by the learner's or the engine's numerics.
    logp_engine: [B,T] float32, nats, as the engine reported it.
    staleness: [B,T] int32, updates between the policy that sampled a token and the one that learns from it.
    advantages: [B] float32.
    rewards: [B] float64, on the CPU.
    logp_proximal: [B,T] float32, nats, under the policy at the start of the step, where the method needs it.
    logp_reference: [B,T] float32, nats, under the reference policy, where there is one.
    proximal_is_current: the method needs a proximal policy, and it is the one that learns (first update of a step).
    behaviour_is_current: so is the policy that sampled all of it, by the learner's numerics.
    """

    sequences: SequenceBatch
    response_lengths: Tensor
    logp_behaviour: Tensor
    logp_engine: Tensor
    staleness: Tensor
    advantages: Tensor
    rewards: Tensor
    logp_proximal: Tensor | None = None
    logp_reference: Tensor | None = None
    proximal_is_current: bool = False
    behaviour_is_current: bool = False

    def token_stats(
        self, logp: Tensor, entropy: Tensor | None, rows: Tensor | slice = slice(None), mask: Tensor | None = None
    ) -> TokenStats:
        """The statistics of some rows, with every optional field that is at hand.

        logp, entropy: [b,t], nats, of the current policy; the entropy without a gradient, None where nothing uses it.
        rows: indices of these rows in the mini-batch.
        mask: [b,t] bool, theirs, where they are narrower than the mini-batch.
        """
        mask = self.sequences.mask[rows] if mask is None else mask
        width = mask.shape[1]
        proximal = None if self.logp_proximal is None else self.logp_proximal[rows, :width]
        return TokenStats(
            logp_current=logp,
            logp_behaviour=self.logp_behaviour[rows, :width],
            advantages=self.advantages[rows],
            mask=mask,
            logp_proximal=logp.detach() if self.proximal_is_current else proximal,
            logp_engine=self.logp_engine[rows, :width],
            staleness=self.staleness[rows, :width],
            entropy=entropy,
            group=self.sequences.group[rows],
        )


Estimate = Callable[[Tensor], Tensor]
"""Rewards [B] float64 → advantages [B] float64."""


def minibatch(graded: GradedRollouts, version: int, behaviour: str, estimate: Estimate, device: str) -> MiniBatch:
    """Pads a part of a rollout batch and computes its advantages, in float64.

    graded: the part: G prompts with B responses.
    version: updates done by the policy that will learn from it, which makes the staleness of its tokens.
    behaviour: "engine" takes the engine's own log-probs for the behaviour policy's, else those of the trainer.
    estimate: of the advantages.
    """
    rollouts = graded.rollouts
    sequences = sequence_batch(rollouts, device)
    width = sequences.response_ids.shape[1]

    def padded(values: Tensor) -> Tensor:
        return pad(values, rollouts.response_lengths, width).to(device)

    logp_engine = padded(rollouts.logp_engine)
    return MiniBatch(
        sequences=replace(sequences, mask=sequences.mask & graded.trained.to(device)[:, None]),
        response_lengths=rollouts.response_lengths,
        logp_behaviour=logp_engine if behaviour == "engine" else padded(rollouts.logp_behaviour),
        logp_engine=logp_engine,
        staleness=version - padded(rollouts.version),
        advantages=estimate(graded.rewards).float().to(device),
        rewards=graded.rewards,
    )


def one_row(batch: MiniBatch, micro: list[tuple[Tensor, SequenceBatch]]) -> tuple[Tensor, SequenceBatch]:
    """The longest response of the first micro-batch as a micro-batch, for a rank that would have none. micro: all."""
    rows, sequences = micro[0]
    longest = rows[sequences.mask.sum(1).argmax()][None]
    return longest, select(batch.sequences, longest)
