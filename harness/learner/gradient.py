"""The gradient of one mini-batch, the same whatever the micro-batches that it is computed in."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms import Algorithm, TokenStats, TokenWeights, coefficients, diagnose, weighted_nll
from algorithms.aggregation import totals
from harness.config import LearnerConfig
from harness.learner.batch import MiniBatch, micro_batches
from harness.learner.scope import join_weights, total_in_scope, weights_in_scope
from harness.models.policy import Policy


@dataclass(frozen=True)
class Gradient:
    """What a mini-batch says; its gradient lies in `.grad`.

    stats, weights, entropy: of the whole mini-batch, [B,T], detached. norm: of the gradient, 0-d, before
    clipping. metrics: on the host already; `time/loss_s` are the seconds from log-probs to the loss, without
    what a GPU still computes then.
    """

    stats: TokenStats
    weights: TokenWeights
    entropy: Tensor
    norm: Tensor
    metrics: dict[str, float]
    valid_tokens: bool


class _Part(NamedTuple):
    """What is kept of a micro-batch. rows: its indices in the mini-batch."""

    rows: Tensor
    loss: Tensor
    stats: TokenStats
    weights: TokenWeights
    entropy: Tensor


class GradientMaker:
    """Scores mini-batches with `policy` and leaves the gradient of `loss` in its parameters.

    max_length: tokens, the constant of Dr. GRPO's denominator.
    """

    def __init__(
        self, policy: Policy, loss: Algorithm, config: LearnerConfig, temperature: float, max_length: int | None
    ) -> None:
        self._policy = policy
        self._loss = loss
        self._aggregation = str(loss.aggregation)
        self._config = config
        self._temperature = temperature
        self._max_length = max_length
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]

    def __call__(self, batch: MiniBatch) -> Gradient:
        """Adds the gradient of the whole mini-batch to `.grad`.

        With several micro-batches a method of batch scope sees the whole mini-batch through one pass without
        gradient, and every method the denominator of the whole; `learner.scope=micro_batch` finds weights and
        denominator on the micro-batch alone, as the peers do.
        """
        micro = micro_batches(batch, self._config.micro_batch_tokens)
        alone = len(micro) == 1 or self._config.scope == "micro_batch"
        whole, total = (None, None) if alone else self._of_the_whole(batch)
        share = 1 / len(micro) if alone else 1.0
        parts, loss_s = [], 0.0
        for rows, sequences in micro:
            scores = self._policy.score(sequences, self._temperature)
            started = time.perf_counter()
            stats = _stats(batch, rows, scores.logp, sequences.mask)
            if whole is None:
                (weights,) = weights_in_scope(self._loss, [stats], scope=self._config.scope)
            else:
                weights = _rows(whole, rows, stats.mask.shape[1])
            scale = coefficients(weights, stats, self._aggregation, self._max_length, total)
            loss = weighted_nll(stats.logp_current, scale if share == 1 else scale * share)
            loss_s += time.perf_counter() - started
            if loss.requires_grad:
                loss.backward()
            parts.append(_Part(rows, loss.detach(), _detached(stats), weights, scores.entropy))
        return self._result(batch, parts, whole, loss_s)

    @torch.no_grad()
    def logp(self, batch: MiniBatch) -> Tensor:
        """log π of the sampled tokens, [B,T], in the same micro-batches as the gradient."""
        micro = micro_batches(batch, self._config.micro_batch_tokens)
        return _in_order(
            [rows for rows, _ in micro],
            [self._policy.score(sequences, self._temperature).logp for _, sequences in micro],
            batch.sequences.mask.shape[1],
        )

    def _of_the_whole(self, batch: MiniBatch) -> tuple[TokenWeights | None, Tensor]:
        """The weights of a method of batch scope, and the counts of the denominator."""
        if self._loss.scope != "batch":
            return None, totals(batch.sequences.mask)
        weights = weights_in_scope(self._loss, [_stats(batch, _all_rows(batch), self.logp(batch))])
        return weights[0], total_in_scope(weights)

    def _result(self, batch: MiniBatch, parts: list[_Part], whole: TokenWeights | None, loss_s: float) -> Gradient:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
        if len(parts) == 1:
            _, loss, stats, weights, entropy = parts[0]
        else:
            rows, width = [part.rows for part in parts], batch.sequences.mask.shape[1]
            loss = torch.stack([part.loss for part in parts]).sum()
            entropy = _in_order(rows, [part.entropy for part in parts], width)
            logp = _in_order(rows, [part.stats.logp_current for part in parts], width)
            stats = _stats(batch, _all_rows(batch), logp)
            if self._config.scope == "micro_batch":
                weights = _rows(join_weights([part.weights for part in parts]), torch.argsort(torch.cat(rows)), width)
            else:
                weights = self._loss.weights(stats) if whole is None else whole
        with torch.no_grad():
            metrics = diagnose(stats, weights, entropy)
            metrics["surrogate"] = self._loss.surrogate(stats, weights, self._max_length)
            metrics["loss"] = loss
            metrics["grad_norm"] = norm
        names = list(metrics)
        # The one synchronisation of an update that is not a method's own.
        values = torch.stack([metrics[name].double().cpu().reshape(()) for name in names]).tolist()
        row = dict(zip(names, values, strict=True)) | {"time/loss_s": loss_s}
        return Gradient(stats, weights, entropy, norm, row, bool(stats.mask.any()))


def _all_rows(batch: MiniBatch) -> Tensor:
    return torch.arange(len(batch.advantages), device=batch.advantages.device)


def _stats(batch: MiniBatch, rows: Tensor, logp: Tensor, mask: Tensor | None = None) -> TokenStats:
    """Statistics of some rows, as wide as `mask`; None means that of the mini-batch."""
    mask = batch.sequences.mask if mask is None else mask
    width = mask.shape[1]
    proximal = batch.logp_proximal
    return TokenStats(
        logp_current=logp,
        logp_behaviour=batch.logp_behaviour[rows][:, :width],
        advantages=batch.advantages[rows],
        mask=mask,
        logp_proximal=None if proximal is None else proximal[rows][:, :width],
        logp_engine=batch.logp_engine[rows][:, :width],
    )


def _detached(stats: TokenStats) -> TokenStats:
    """The same statistics with everything already computed from them, free of the graph."""
    object.__setattr__(stats, "logp_current", stats.logp_current.detach())
    return stats


def _rows(weights: TokenWeights, rows: Tensor, width: int) -> TokenWeights:
    cut = {f.name: _widen(getattr(weights, f.name)[rows], width) for f in fields(weights) if f.name != "metrics"}
    return TokenWeights(**cut, metrics=weights.metrics)


def _in_order(rows: list[Tensor], parts: list[Tensor], width: int) -> Tensor:
    """Micro-batches of different widths → [B, width] in the order of the mini-batch."""
    return torch.cat([_widen(part, width) for part in parts])[torch.argsort(torch.cat(rows))]


def _widen(values: Tensor, width: int) -> Tensor:
    """[b,t] cut or padded with zeros to [b,width]."""
    return F.pad(values, (0, width - values.shape[1]))
