"""The learner: one rollout batch in, `updates_per_step` optimizer updates and a row of metrics for each out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from algorithms import Algorithm, TokenStats, TokenWeights, coefficients, diagnose, weighted_nll
from algorithms.advantages import zero_variance_groups
from harness.config import LearnerConfig
from harness.learner.batch import GradedRollouts, MiniBatch, micro_batches, minibatch
from harness.models.policy import Policy

NUMBERS = float  # a metric; NaN where undefined


@dataclass(frozen=True)
class Refusal:
    """An update that was not made: weights and optimizer are untouched, and the version counts on.

    reason  what was not finite (or too large) · tensors  the offending tensor and the batch, for the dump
    """

    reason: str
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Update:
    """What one update leaves behind. metrics: the row for metrics.jsonl. tokens: per-token columns, [N] each,
    where they were asked for."""

    metrics: dict[str, float]
    refusal: Refusal | None
    tokens: dict[str, Tensor] | None


class Learner:
    """Owns the optimizer and counts the versions. Everything a mini-batch needs is passed to `step`."""

    def __init__(
        self,
        policy: Policy,
        loss: Algorithm,
        config: LearnerConfig,
        *,
        updates_per_step: int,
        group_size: int,
        temperature: float,
        behaviour: str,
        max_new_tokens: int | None = None,
        record_tokens: tuple[int, int] | None = None,
    ) -> None:
        self.policy = policy
        self.loss = loss
        self.version = 0
        self._config = config
        self._updates_per_step = updates_per_step
        self._group_size = group_size
        self._temperature = temperature
        self._behaviour = behaviour
        self._max_length = max_new_tokens  # the constant of Dr. GRPO's denominator
        self._record_tokens = record_tokens
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, graded: GradedRollouts) -> Iterator[Update]:
        """One rollout batch, an update at a time."""
        device = str(self.policy.model.device)
        batches = [
            minibatch(part, self._group_size, self._behaviour, self._config.advantage, device)
            for part in graded.minibatches(self._updates_per_step)
        ]
        if "logp_proximal" in self.loss.needs:
            # The proximal policy is the one at the start of the step, before any of its updates.
            batches = [replace(batch, logp_proximal=self._score_without_gradient(batch).logp) for batch in batches]
        for batch in batches:
            yield self._update(batch)

    def _update(self, batch: MiniBatch) -> Update:
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        problem = _first_non_finite(rewards=batch.rewards, advantages=batch.advantages)
        result = None if problem else self._gradient(batch)
        if result is not None:
            problem = self._inspect(result)
        refusal = None
        if problem is not None:
            refusal = Refusal(problem, _evidence(batch, result))
            self.optimizer.zero_grad(set_to_none=True)
        elif result is not None and result.valid_tokens:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._config.grad_clip, result.grad_norm)
            self.optimizer.step()
        metrics = self._metrics(batch, result, refused=refusal is not None)
        metrics["time/update_s"] = time.perf_counter() - started
        tokens = self._token_rows(batch, result) if result is not None else None
        self.version += 1
        return Update(metrics, refusal, tokens)

    def _gradient(self, batch: MiniBatch) -> _Gradient:
        """Gradients of the whole mini-batch into `.grad`, whatever the micro-batches.

        Scope: with several micro-batches a batch-scope method sees the whole mini-batch through one pass
        without gradient; `learner.scope=micro_batch` computes every weight and denominator on the micro-batch
        alone, as the peers do.
        """
        parts = micro_batches(batch, self._config.micro_batch_tokens)
        micro_scope = self._config.scope == "micro_batch"
        whole = self.loss.scope == "batch" and len(parts) > 1 and not micro_scope
        fixed = self._whole_batch_weights(batch) if whole else None
        results = []
        for rows, sequences in parts:
            scores = self.policy.score(sequences, self._temperature)
            stats = _stats(batch, rows, scores.logp, sequences.mask)
            if fixed is not None:
                weights, scale = _rows(fixed[0], rows, stats), fixed[1][rows][:, : stats.mask.shape[1]]
            else:
                weights = self.loss.weights(stats)
                total = None if micro_scope or len(parts) == 1 else _totals(batch.sequences.mask)
                scale = coefficients(weights, stats, str(self.loss.aggregation), self._max_length, total)
                if micro_scope:
                    scale = scale / len(parts)
            loss = weighted_nll(stats.logp_current, scale)
            if loss.requires_grad:
                loss.backward()
            results.append((rows, loss.detach(), _detached(stats), weights, scores.entropy))
        return self._joined(batch, results)

    def _whole_batch_weights(self, batch: MiniBatch) -> tuple[TokenWeights, Tensor]:
        scores = self._score_without_gradient(batch)
        everything = torch.arange(len(batch.advantages), device=batch.advantages.device)
        stats = _stats(batch, everything, scores.logp, batch.sequences.mask)
        weights = self.loss.weights(stats)
        return weights, coefficients(weights, stats, str(self.loss.aggregation), self._max_length)

    @torch.no_grad()
    def _score_without_gradient(self, batch: MiniBatch) -> Any:
        """Scores of the whole mini-batch, computed in the same micro-batches as the gradient."""
        parts = micro_batches(batch, self._config.micro_batch_tokens)
        return _scatter(batch, [(rows, self.policy.score(seq, self._temperature)) for rows, seq in parts])

    def _joined(self, batch: MiniBatch, results: list[Any]) -> _Gradient:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
        if len(results) == 1:
            _, loss, stats, weights, entropy = results[0]
        else:
            rows = torch.cat([r for r, *_ in results])
            order = torch.argsort(rows)
            width = batch.sequences.mask.shape[1]
            loss = torch.stack([part for _, part, *_ in results]).sum()
            logp = _join([s.logp_current for _, _, s, _, _ in results], width, order)
            entropy = _join([e for *_, e in results], width, order)
            stats = _stats(batch, torch.arange(len(rows), device=rows.device), logp, batch.sequences.mask)
            weights = TokenWeights(
                **{
                    name: _join([getattr(w, name) for *_, w, _ in results], width, order)
                    for name in ("weights", "offsets", "kept", "counted", "changed")
                },
                metrics=results[-1][3].metrics,
            )
        with torch.no_grad():
            metrics = diagnose(stats, weights, entropy)
            metrics["surrogate"] = self.loss.surrogate(stats, weights, self._max_length)
            metrics["loss"] = loss
            metrics["grad_norm"] = norm
        names = list(metrics)
        # The one synchronisation of an update that is not a method's own.
        values = torch.stack([metrics[name].double().cpu().reshape(()) for name in names]).tolist()
        return _Gradient(stats, weights, entropy, norm, dict(zip(names, values, strict=True)), bool(stats.mask.any()))

    def _inspect(self, result: _Gradient) -> str | None:
        """Why the update must be refused; None if it may be made."""
        loss, norm = result.metrics["loss"], result.metrics["grad_norm"]
        if not math.isfinite(loss):
            names = ("logp_current", "logp_behaviour", "logp_engine", "logp_proximal")
            valid = {n: v[result.stats.mask] for n in names if (v := getattr(result.stats, n)) is not None}
            return _first_non_finite(**valid) or f"loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if abs(loss) > self._config.max_loss:
            return f"loss {loss:.3g} exceeds learner.max_loss={self._config.max_loss:g}"
        return None

    def _metrics(self, batch: MiniBatch, result: _Gradient | None, *, refused: bool) -> dict[str, float]:
        rewards = batch.rewards
        tokens = batch.sequences.mask
        staleness = (self.version - batch.version)[tokens].double().cpu()
        row: dict[str, float] = {
            "update": self.version + 1,
            "version": self.version,
            "reward": rewards.mean().item(),
            "zero_variance_groups": zero_variance_groups(rewards.view(-1, self._group_size)).item(),
            "response_length": tokens.sum(1).double().mean().item(),
            "refused": float(refused),
            "skipped": float(result is not None and not result.valid_tokens),
            **{
                f"staleness_{name}": getattr(staleness, name)().item() if len(staleness) else math.nan
                for name in ("min", "mean", "max")
            },
        }
        if result is not None:
            row |= {name: value for name, value in result.metrics.items() if not name.startswith("staleness")}
        return row

    def _token_rows(self, batch: MiniBatch, result: _Gradient) -> dict[str, Tensor] | None:
        """Per-token columns of a recorded update (`record.tokens`)."""
        window = self._record_tokens
        if window is None or not window[0] <= self.version + 1 <= window[1]:
            return None
        mask = result.stats.mask
        row, position = mask.nonzero(as_tuple=True)
        columns = {
            "update": torch.full_like(row, self.version + 1),
            "row": row,
            "position": position,
            "token_id": batch.sequences.response_ids[mask],
            "abs_ratio_minus_1": (result.stats.ratio - 1).abs()[mask],
            "entropy": result.entropy[mask],
            "kept": result.weights.kept[mask],
            "advantage_sign": result.stats.token_advantages.sign()[mask].to(torch.int8),
            "trust_region": result.stats.trust_region[mask],
            "staleness": self.version - batch.version[mask],
        }
        return {name: column.cpu() for name, column in columns.items()}


@dataclass(frozen=True)
class _Gradient:
    """Statistics of a mini-batch whose gradient lies in `.grad`; metrics already on the host."""

    stats: TokenStats
    weights: TokenWeights
    entropy: Tensor
    grad_norm: Tensor
    metrics: dict[str, float]
    valid_tokens: bool


def _stats(batch: MiniBatch, rows: Tensor, logp: Tensor, mask: Tensor) -> TokenStats:
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


def _rows(weights: TokenWeights, rows: Tensor, stats: TokenStats) -> TokenWeights:
    width = stats.mask.shape[1]
    names = ("weights", "offsets", "kept", "counted", "changed")
    return TokenWeights(**{n: getattr(weights, n)[rows][:, :width] for n in names}, metrics=weights.metrics)


def _totals(mask: Tensor) -> Tensor:
    from algorithms.aggregation import totals

    return totals(mask)


def _join(parts: list[Tensor], width: int, order: Tensor) -> Tensor:
    """Micro-batches of different widths → [B, width] in the order of the mini-batch."""
    return torch.cat([F.pad(part, (0, width - part.shape[1])) for part in parts])[order]


def _scatter(batch: MiniBatch, parts: list[Any]) -> Any:
    rows = torch.cat([r for r, _ in parts])
    order, width = torch.argsort(rows), batch.sequences.mask.shape[1]
    scores = parts[0][1]
    return type(scores)(*(_join([getattr(s, name) for _, s in parts], width, order) for name in scores._fields))


def _first_non_finite(**tensors: Tensor) -> str | None:
    """Names the first tensor with NaN or Inf and says how many there are."""
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            return f"{name} has {bad} non-finite of {tensor.numel()} values"
    return None


def _evidence(batch: MiniBatch, result: _Gradient | None) -> dict[str, Tensor]:
    """What to look at after a refusal."""
    tensors = {
        "prompt_ids": batch.sequences.prompt_ids,
        "prompt_lengths": batch.sequences.prompt_lengths,
        "group": batch.sequences.group,
        "response_ids": batch.sequences.response_ids,
        "mask": batch.sequences.mask,
        "logp_behaviour": batch.logp_behaviour,
        "version": batch.version,
        "advantages": batch.advantages,
        "rewards": batch.rewards,
    }
    if result is not None:
        tensors |= {"logp_current": result.stats.logp_current, "weights": result.weights.weights}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
