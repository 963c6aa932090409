"""The learner: one rollout batch in, `updates_per_step` optimizer updates and a row of metrics for each out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from algorithms import Algorithm
from algorithms.advantages import advantages, zero_variance_groups
from harness.groups import LearnerConfig
from harness.learner.batch import MiniBatch, minibatch
from harness.learner.fidelity import Fidelity, Halves
from harness.learner.gradient import Gradient, GradientMaker
from harness.learner.penalties import penalised_rewards
from harness.learner.shadow import Shadows
from harness.learner.step_size import learning_rate, step_factor
from harness.models.policy import Policy
from harness.ranks.alone import Alone
from harness.types import GradedRollouts, Refusal, Update


class Learner:
    """Owns the optimizer and counts the versions. Everything a mini-batch needs is passed to `step`.

    policy: the policy that learns.
    loss: the method.
    config: optimizer, micro-batches and limits.
    updates_per_step: mini-batches that a rollout batch is cut into.
    group_size: responses to a prompt.
    temperature: of the sampling policy.
    behaviour: whose log-probs are the behaviour policy's, "trainer" or "engine".
    max_new_tokens: tokens, the constant of Dr. GRPO's denominator.
    record_tokens: first and last update of which per-token columns are kept; None keeps none.
    updates: of the whole run, where the learning rate falls.
    reference: policy that the KL divergence is measured from, where there is one.
    shadows: methods asked what they would have done with the mini-batches.
    ranks: that share the mini-batches; they hold slices of the policy.
    deterministic: the same bits in every run on an accelerator too.
    """

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
        updates: int | None = None,
        reference: Policy | None = None,
        shadows: Shadows | None = None,
        ranks: Alone | None = None,
        deterministic: bool = False,
    ) -> None:
        self.policy = policy
        self.loss = loss
        self.version = 0
        self._config = config
        self._updates_per_step = updates_per_step
        self._group_size = group_size
        self._behaviour = behaviour
        self._record_tokens = record_tokens
        self._updates = updates
        self._reference = reference
        self._shadows = shadows or Shadows()
        self._max_length = max_new_tokens
        self._ranks = ranks or Alone()
        self._gradient = GradientMaker(
            policy, loss, config, temperature, max_new_tokens, self._ranks, deterministic=deterministic
        )
        self._fidelity = Fidelity(
            policy, config, loss.aggregation, temperature, max_new_tokens, self._advantages, self._ranks, deterministic
        )
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self.optimizer = self._ranks.adamw(
            self._parameters,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, graded: GradedRollouts, fresh: Halves | None = None) -> Iterator[Update]:
        """Learns from one rollout batch, an update at a time, in the order of its prompts.

        graded: the batch, of updates_per_step mini-batches; max_epochs times one of so many fewer, gone through anew.
        fresh: two sets of rollouts of the policy as it is now, which the first update's gradient is compared with.
        Returns an iterator; each update is made when it is asked for, and counts as a version even if it is refused.
        """
        self._ranks.order("step", graded, fresh)
        epochs = self._config.max_epochs
        parts = graded.minibatches(self._updates_per_step // epochs) * epochs
        # All before the first update: the proximal policy is the one at the start of the step.
        batches = [self._prepared(part, version) for version, part in enumerate(parts, self.version)]
        for batch in batches:
            yield self._update(batch, fresh)
            fresh = None  # it is no longer

    def _prepared(self, part: GradedRollouts, version: int) -> MiniBatch:
        """The mini-batch of one update, with what other policies say of it. version: of the policy that will learn."""
        batch = minibatch(part, version, self._behaviour, self._advantages, str(self.policy.model.device))
        proximal = "logp_proximal" in self.loss.needs
        if version == self.version:  # nothing has been learnt since the step began, and perhaps since it was sampled
            fresh = self._behaviour == "trainer" and not batch.staleness[batch.sequences.mask].any()
            batch = replace(batch, proximal_is_current=proximal, behaviour_is_current=fresh)
        elif proximal or self._shadow_needs_proximal(version):
            batch = replace(batch, logp_proximal=self._gradient.scores(batch).logp)
        if self._reference is not None:
            batch = replace(batch, logp_reference=self._gradient.scores(batch, self._reference).logp)
            if self._config.kl_in == "reward":
                batch = replace(batch, advantages=self._penalised_advantages(batch))
        return batch

    def _shadow_needs_proximal(self, version: int) -> bool:
        """Of an update after the first of a step, where the proximal policy is the current one."""
        return self._shadows.due(version) and self._shadows.need("logp_proximal")

    def _advantages(self, rewards: Tensor) -> Tensor:
        """[B] float64 → [B] float64."""
        groups = rewards.view(-1, self._group_size)
        return advantages(groups, self._config.advantage, self._config.advantage_shift).flatten()

    def _penalised_advantages(self, batch: MiniBatch) -> Tensor:
        """Advantages of the rewards minus the KL divergence from the reference policy, [B] float32."""
        assert batch.logp_reference is not None
        coefficient, mask = self._config.kl_coefficient, batch.sequences.mask
        rewards = penalised_rewards(batch.rewards, coefficient, batch.logp_behaviour, batch.logp_reference, mask)
        return self._advantages(rewards).to(batch.advantages)

    def _update(self, batch: MiniBatch, fresh: Halves | None = None) -> Update:
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
            if fresh is not None:
                result.metrics.update(self._fidelity.measure(fresh))
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._config.grad_clip, result.norm)
            self._step_optimizer(result.metrics)
        metrics = self._metrics(batch, result, refused=refusal is not None)
        metrics["time/update_s"] = time.perf_counter() - started
        if result is not None and result.valid_tokens and refusal is None and self._shadows.due(self.version):
            metrics |= self._shadows.measure(result.stats, self.loss, result.weights, self._max_length)
        tokens = self._token_rows(batch, result) if result is not None else None
        self.version += 1
        return Update(metrics, refusal, tokens)

    def _step_optimizer(self, metrics: dict[str, Any]) -> None:
        """One step at this update's learning rate, which is noted in its metrics."""
        lr = learning_rate(self._config, self.version, self._updates) * step_factor(self._config, metrics)
        metrics["lr"] = lr
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def _inspect(self, result: Gradient) -> str | None:
        """Why the update must be refused; None if it may be made."""
        loss, norm = result.metrics["loss"], result.metrics["grad_norm"]
        if not math.isfinite(loss):
            names = ("logp_current", "logp_behaviour", *sorted(self.loss.needs - {"group"}))
            valid = {name: getattr(result.stats, name)[result.stats.mask] for name in names}
            return _first_non_finite(**valid) or f"loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm}"
        if abs(loss) > self._config.max_loss:
            return f"loss {loss:.3g} exceeds learner.max_loss={self._config.max_loss:g}"
        return None

    def _metrics(self, batch: MiniBatch, result: Gradient | None, *, refused: bool) -> dict[str, Any]:
        rewards = batch.rewards
        row: dict[str, Any] = {
            "update": self.version + 1,
            "version": self.version,
            "reward": rewards.mean().item(),
            "zero_variance_groups": zero_variance_groups(rewards.view(-1, self._group_size)).item(),
            "response_length": batch.response_lengths.double().mean().item(),
            "refused": float(refused),
            "skipped": float(result is not None and not result.valid_tokens),
            "staleness_hist": _histogram(batch.staleness[batch.sequences.mask]),
        }
        if result is None:
            return row
        staleness = result.metrics["staleness_mean"]
        turnovers = self.version / staleness if staleness > 0 else math.nan
        metrics = result.metrics | {"turnovers": turnovers}
        if self._behaviour == "engine":  # whose log-probs are compared with nobody's: not a gap of 0
            metrics |= {name: math.nan for name in metrics if name.startswith("engine_gap")}
        return row | metrics

    def _token_rows(self, batch: MiniBatch, result: Gradient) -> dict[str, Tensor] | None:
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
            "log_ratio": result.stats.log_ratio64[mask].float(),
            "abs_ratio_minus_1": (result.stats.ratio - 1).abs()[mask],
            "entropy": result.stats.require("entropy", "record.tokens")[mask],
            "kept": result.weights.kept[mask],
            "advantage_sign": result.stats.token_advantages.sign()[mask].to(torch.int8),
            "trust_region": result.stats.trust_region[mask],
            "staleness": batch.staleness[mask],
        }
        return {name: column.cpu() for name, column in columns.items()}


def _histogram(staleness: Tensor) -> dict[str, int]:
    """Tokens trained on by their staleness in updates, {"5": 812, "9": 120}; text keys, because JSON's are.

    staleness: [N] int.
    """
    values, counts = torch.unique(staleness, return_counts=True)
    return {str(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}


def _first_non_finite(**tensors: Tensor) -> str | None:
    """Names the first tensor with NaN or Inf and says how many there are."""
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            return f"{name} has {bad} non-finite of {tensor.numel()} values"
    return None


def _evidence(batch: MiniBatch, result: Gradient | None) -> dict[str, Tensor]:
    """What to look at after a refusal."""
    tensors = {
        "prompt_ids": batch.sequences.prompt_ids,
        "prompt_lengths": batch.sequences.prompt_lengths,
        "group": batch.sequences.group,
        "response_ids": batch.sequences.response_ids,
        "mask": batch.sequences.mask,
        "logp_behaviour": batch.logp_behaviour,
        "staleness": batch.staleness,
        "advantages": batch.advantages,
        "rewards": batch.rewards,
    }
    if result is not None:
        tensors |= {"logp_current": result.stats.logp_current, "weights": result.weights.weights}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
