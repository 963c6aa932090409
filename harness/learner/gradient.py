"""The gradient of one mini-batch, the same whatever the micro-batches that it is computed in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from algorithms import Algorithm, TokenStats, TokenWeights, compose, measure
from algorithms.aggregation import totals
from algorithms.token_weights import join_weights
from harness.groups import LearnerConfig
from harness.learner.batch import MiniBatch, one_row
from harness.learner.penalties import in_loss, k3, penalty
from harness.learner.scope import total_in_scope, weights_in_scope
from harness.models.determinism import deterministic
from harness.models.logprobs import TokenScores
from harness.models.policy import Policy
from harness.models.sequences import SequenceBatch, in_order, micro_batches
from harness.ranks.alone import Alone


@dataclass(frozen=True)
class Gradient:
    """What a mini-batch says; its gradient lies in `.grad`.

    stats, weights: of the whole mini-batch, [B,T], detached.
    norm: 0-d, of the gradient before clipping.
    metrics: on the host already; `time/loss_s` are the seconds from log-probs to the loss, without what a GPU still
    computes then.
    valid_tokens: whether there is any.
    """

    stats: TokenStats
    weights: TokenWeights
    norm: Tensor
    metrics: dict[str, Any]
    valid_tokens: bool


class _Part(NamedTuple):
    """What is kept of a micro-batch. rows: its indices in the mini-batch. loss: 0-d, detached. seconds: it took."""

    rows: Tensor
    loss: Tensor
    stats: TokenStats
    weights: TokenWeights
    seconds: float


class GradientMaker:
    """Scores mini-batches with a policy and leaves the gradient of a loss in its parameters.

    policy: the policy that learns.
    loss: the method.
    config: micro-batches and scope.
    temperature: of the sampling policy, whose log-probs are those of softmax(logits / temperature).
    max_length: tokens, the constant of Dr. GRPO's denominator; None means the width of each tensor.
    ranks: that share the micro-batches.
    deterministic: the same bits in every run on an accelerator too.
    """

    def __init__(
        self,
        policy: Policy,
        loss: Algorithm,
        config: LearnerConfig,
        temperature: float,
        max_length: int | None,
        ranks: Alone,
        deterministic: bool = False,
    ) -> None:
        self._policy = policy
        self._ranks = ranks
        self._loss = loss
        self._config = config
        self._temperature = temperature
        self._max_length = max_length
        self._deterministic = deterministic
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        # Asked for only where it is used, so that a policy from outside need not know the option.
        self._score_options = {"entropy_gradient": True} if config.entropy_bonus else {}

    def __call__(self, batch: MiniBatch) -> Gradient:
        """Adds the gradient of the whole mini-batch to `.grad`.

        With several micro-batches a method of batch scope sees the whole mini-batch first, through a pass without
        gradient unless its log-probs are at hand, and every method the denominator of the whole;
        `learner.scope=micro_batch` finds weights and denominator on the micro-batch alone, as the peers do.
        """
        micro = micro_batches(batch.sequences, self._config.micro_batch_tokens)
        alone = len(micro) == 1 or self._config.scope == "micro_batch"
        whole, total = (None, None) if alone else self._of_the_whole(batch)
        share = 1 / len(micro) if alone else 1.0
        dealt = self._ranks.accumulate(micro, one_row(batch, micro))
        own = [self._part(batch, *one, whole, total, share) for one in dealt]
        parts = self._of_all_ranks(batch, micro, own, whole)
        return self._result(*self._joined(batch, parts, whole), parts, batch.logp_reference)

    def _part(
        self,
        batch: MiniBatch,
        rows: Tensor,
        sequences: SequenceBatch,
        whole: TokenWeights | None,
        total: Tensor | None,
        share: float,
    ) -> _Part:
        """Adds the gradient of one micro-batch. share: of the mini-batch's loss, where it stands alone."""
        with deterministic(self._deterministic):
            scores = self._policy.score(sequences, self._temperature, **self._score_options)
        valid = None if total is None else totals(batch.sequences.mask)
        started = time.perf_counter()
        stats = batch.token_stats(scores.logp, scores.entropy.detach(), rows, sequences.mask)
        weights = self._weights(stats, rows, whole)
        out = compose(self._loss, stats, weights=weights, max_length=self._max_length, total=total, metrics=False)
        loss = share * (out.loss + self._penalty(batch, rows, sequences.mask, scores, valid))
        seconds = time.perf_counter() - started
        if loss.requires_grad:
            with deterministic(self._deterministic):
                loss.backward()
        return _Part(rows, loss.detach(), stats.detached(), weights, seconds)

    def _weights(self, stats: TokenStats, rows: Tensor, whole: TokenWeights | None) -> TokenWeights:
        """Those of a micro-batch. whole: of the mini-batch, if they are known."""
        if whole is None:
            return weights_in_scope(self._loss, [stats], scope=self._config.scope)[0]
        return whole.select(rows, stats.mask.shape[1])

    def _of_all_ranks(
        self,
        batch: MiniBatch,
        micro: list[tuple[Tensor, SequenceBatch]],
        own: list[_Part],
        whole: TokenWeights | None,
    ) -> list[_Part]:
        """The parts of every micro-batch. Only what is computed with the model travels: the batch is on every rank."""
        if self._ranks.world == 1:
            return own
        sent = [
            (
                part.stats.logp_current,
                part.stats.require("entropy", "the learner"),
                part.loss,
                torch.tensor(part.seconds),
            )
            for part in own
        ]
        parts = []
        for (rows, sequences), (logp, entropy, loss, seconds) in zip(
            micro, self._ranks.gather(sent, len(micro)), strict=True
        ):
            stats = batch.token_stats(logp, entropy, rows, sequences.mask)
            parts.append(_Part(rows, loss, stats, self._weights(stats, rows, whole), float(seconds)))
        return parts

    def _penalty(
        self, batch: MiniBatch, rows: Tensor, mask: Tensor, scores: TokenScores, total: Tensor | None
    ) -> Tensor | float:
        """The share of one micro-batch in the terms beside the method's loss. total: as `row_scale` takes it."""
        if not in_loss(self._config):
            return 0.0
        reference = None if batch.logp_reference is None else batch.logp_reference[rows, : mask.shape[1]]
        aggregation = str(self._loss.aggregation)
        return penalty(self._config, scores, reference, mask, aggregation, self._max_length, total)

    @torch.no_grad()
    def scores(self, batch: MiniBatch, policy: Policy | None = None) -> TokenScores:
        """Log-prob and entropy of the sampled tokens, [B,T], nats, in the same micro-batches as the gradient.

        policy: whose; None means the one that learns.
        """
        policy = self._policy if policy is None else policy
        micro = micro_batches(batch.sequences, self._config.micro_batch_tokens)
        dealt = self._ranks.deal(micro, one_row(batch, micro))
        own = [policy.score(sequences, self._temperature) for _, sequences in dealt]
        logp, entropy = zip(*self._ranks.gather(own, len(micro)), strict=True)
        rows, width = [rows for rows, _ in micro], batch.sequences.mask.shape[1]
        return TokenScores(in_order(rows, logp, width), in_order(rows, entropy, width))

    def _of_the_whole(self, batch: MiniBatch) -> tuple[TokenWeights | None, Tensor]:
        """The weights of a method of batch scope (None: of any other), and the counts of the denominator."""
        if self._loss.scope != "batch":
            return None, totals(batch.sequences.mask)
        weights = weights_in_scope(self._loss, [self._stats_before(batch)])
        return weights[0], total_in_scope(weights)

    def _stats_before(self, batch: MiniBatch) -> TokenStats:
        """The statistics without a gradient: those of the policy that sampled, where it is still the same."""
        if batch.behaviour_is_current and "entropy" not in self._loss.needs:
            return batch.token_stats(batch.logp_behaviour, None)
        return batch.token_stats(*self.scores(batch))

    def _joined(
        self, batch: MiniBatch, parts: list[_Part], whole: TokenWeights | None
    ) -> tuple[TokenStats, TokenWeights]:
        """Statistics and weights of the whole mini-batch, in its order. whole: its weights, if they are known."""
        if len(parts) == 1:
            return parts[0].stats, parts[0].weights
        rows, width = [part.rows for part in parts], batch.sequences.mask.shape[1]
        logp = in_order(rows, [part.stats.logp_current for part in parts], width)
        entropy = in_order(rows, [part.stats.require("entropy", "the learner") for part in parts], width)
        stats = batch.token_stats(logp, entropy)
        if self._config.scope == "micro_batch":
            joined = join_weights([part.weights for part in parts])
            return stats, joined.select(torch.argsort(torch.cat(rows)), width)
        return stats, self._loss.weights(stats) if whole is None else whole

    @torch.no_grad()
    def _result(
        self, stats: TokenStats, weights: TokenWeights, parts: list[_Part], reference: Tensor | None
    ) -> Gradient:
        norm = self._norm()
        loss = torch.stack([part.loss for part in parts]).sum()
        metrics = measure(self._loss, stats, weights, self._max_length) | {"loss": loss, "grad_norm": norm}
        if reference is not None:
            metrics["kl_reference"] = k3(stats.logp, reference, stats.mask).sum() / stats.count
        # The one synchronisation of an update that is not a method's own.
        values = torch.stack([value.double().to(loss.device).reshape(()) for value in metrics.values()]).tolist()
        row = dict(zip(metrics, values, strict=True)) | {"time/loss_s": sum(part.seconds for part in parts)}
        return Gradient(stats, weights, norm, row, bool(stats.mask.any()))

    def _norm(self) -> Tensor:
        """Of the whole gradient, 0-d. A tensor at a time and in one piece: a sum over slices would have other bits."""
        grads = (p.grad for p in self._parameters if p.grad is not None)
        norms = [torch.linalg.vector_norm(self._ranks.whole(grad)) for grad in grads]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
