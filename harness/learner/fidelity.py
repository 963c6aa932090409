"""Gradient fidelity: the gradient of a method on stale data against that of fresh data of the policy that learns.

Both are noisy, so the cosine has a ceiling: that of two fresh gradients of the same prompts with each other.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from algorithms.reinforce import Reinforce
from harness.groups import LearnerConfig
from harness.learner.batch import Estimate, minibatch
from harness.learner.gradient import GradientMaker
from harness.models.policy import Policy
from harness.ranks.alone import Alone
from harness.types import GradedRollouts

Halves = tuple[GradedRollouts, GradedRollouts]


class Fidelity:
    """Compares the gradient that lies in the parameters with the policy gradient (w = 1) of fresh rollouts.

    policy: the policy that learns.
    config: micro-batches of the learner; its penalties are left out of the fresh gradient.
    aggregation: of the method that trains.
    temperature: of the sampling policy.
    max_length: tokens, as GradientMaker takes it.
    estimate: of the advantages.
    ranks: that share the gradient.
    deterministic: as GradientMaker takes it.
    """

    def __init__(
        self,
        policy: Policy,
        config: LearnerConfig,
        aggregation: str | None,
        temperature: float,
        max_length: int | None,
        estimate: Estimate,
        ranks: Alone,
        deterministic: bool = False,
    ) -> None:
        plain = replace(config, entropy_bonus=0.0, kl_coefficient=0.0)
        method = Reinforce(aggregation=aggregation)
        self._gradient = GradientMaker(policy, method, plain, temperature, max_length, ranks, deterministic)
        self._ranks = ranks
        self._parameters = [p for p in policy.model.parameters() if p.requires_grad]
        self._estimate = estimate
        self._device = str(policy.model.device)

    def measure(self, fresh: Halves) -> dict[str, float]:
        """The metrics `fidelity/…`; the gradient in the parameters is left as it was.

        fresh: rollouts of the policy as it is now, twice those of the mini-batch: its prompts, its number of answers.
        """
        own = [p.grad for p in self._parameters]
        stale = self._flat()
        first, second = (self._of(half) for half in fresh)
        for parameter, gradient in zip(self._parameters, own, strict=True):
            parameter.grad = gradient
        return {
            "fidelity/cosine": (_cosine(stale, first) + _cosine(stale, second)) / 2,
            "fidelity/ceiling": _cosine(first, second),
            "fidelity/norm_ratio": (2 * stale.norm() / (first.norm() + second.norm())).item(),
        }

    def _of(self, graded: GradedRollouts) -> Tensor:
        """The fresh gradient of a part, flat."""
        for parameter in self._parameters:
            parameter.grad = None
        self._gradient(minibatch(graded, 0, "trainer", self._estimate, self._device))
        return self._flat()

    def _flat(self) -> Tensor:
        """A copy of the gradient in the parameters, one vector, float32."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        return torch.cat([self._ranks.whole(gradient).flatten() for gradient in gradients])


def _cosine(one: Tensor, other: Tensor) -> float:
    """NaN where one of them is zero."""
    return (torch.dot(one, other) / (one.norm() * other.norm())).item()
