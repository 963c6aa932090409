"""What any method can be given beside its loss: a pull towards a reference policy, and towards entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from algorithms.aggregation import row_scale
from harness.errors import UserError
from harness.groups import LearnerConfig
from harness.models.logprobs import TokenScores


def in_loss(config: LearnerConfig) -> bool:
    """Whether the loss has a term beside the method's."""
    return config.entropy_bonus > 0 or (config.kl_coefficient > 0 and config.kl_in == "loss")


def penalty(
    config: LearnerConfig,
    scores: TokenScores,
    reference: Tensor | None,
    mask: Tensor,
    aggregation: str,
    max_length: int | None,
    total: Tensor | None,
) -> Tensor:
    """(1/D) Σ (β·k3 − η·entropy) over the valid tokens, 0-d, differentiable in the scores.

    config: β = kl_coefficient (where kl_in is "loss"), η = entropy_bonus.
    scores: [b,t], of the current policy.
    reference: [b,t], nats, log-probs under the reference policy; None where there is none.
    mask: [b,t] bool.
    aggregation, max_length, total: of D, as `row_scale` takes them.
    Raises UserError for a bonus on an entropy without a gradient.
    """
    terms = torch.zeros_like(scores.logp)
    if reference is not None and config.kl_in == "loss":
        terms = terms + config.kl_coefficient * k3(scores.logp, reference, mask)
    if config.entropy_bonus:
        if not scores.entropy.requires_grad and scores.logp.requires_grad:
            raise UserError(
                "learner.entropy_bonus: the entropy of this policy has no gradient; its `score` must heed "
                "entropy_gradient=True, or set learner.entropy_bonus=0"
            )
        terms = terms - config.entropy_bonus * scores.entropy
    scale = row_scale(mask, aggregation, max_length, total).to(terms.dtype)
    return (torch.where(mask, terms, 0.0) * scale).sum()


def k3(logp: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Estimate of KL(policy ‖ reference) a token, [b,t], 0 outside the mask: e^g − 1 − g, g = reference − logp.

    logp, reference: [b,t], nats. mask: [b,t] bool. Source: Schulman, "Approximating KL divergence" (2020).
    """
    gap = torch.where(mask, reference - logp, 0.0)
    return gap.expm1() - gap


def penalised_rewards(rewards: Tensor, coefficient: float, logp: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """R − β Σ k1 of each response, [B] float64 on the CPU; k1 = log π_behav − log π_ref of each token.

    rewards: [B] float64. coefficient: β.
    logp, reference: [B,T], nats, of the policy that sampled and of the reference. mask: [B,T] bool.
    """
    gap = torch.where(mask, logp.double() - reference, 0.0)
    return rewards - coefficient * gap.sum(1).cpu()
