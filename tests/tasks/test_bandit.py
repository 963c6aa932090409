"""The bandit, and the tabular theorem of arXiv 2506.20520, reached through the loss that all methods share."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from algorithms import Algorithm, TokenStats, TokenWeights, weigh
from harness.tasks.bandit import Bandit
from harness.types import Problem

TASK = Bandit()
REWARDS = torch.from_numpy(TASK.rewards)
BEHAVIOUR = torch.softmax(torch.randn(TASK.arms, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 0)
VALUE = float((BEHAVIOUR * REWARDS).sum())


@dataclass(frozen=True)
class Uncorrected(Algorithm):
    """REINFORCE without a correction: w = 1."""

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, torch.ones_like(stats.logp))


def loss(logits: Tensor, baseline: float) -> Tensor:
    """−Σ μ (r − V) log π over the arms: every arm once, its advantage weighted by how often it is sampled."""
    logp = torch.log_softmax(logits, 0)[:, None]
    advantages = TASK.arms * BEHAVIOUR * (REWARDS - baseline)
    mask = torch.ones(TASK.arms, 1, dtype=torch.bool)
    return Uncorrected()(TokenStats(logp, BEHAVIOUR.log()[:, None], advantages, mask)).loss


def trained(baseline: float, rate: float, steps: int) -> Tensor:
    """The policy after gradient descent from the behaviour policy, [arms]."""
    logits = BEHAVIOUR.log().clone().requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss(logits, baseline), logits)
        logits = (logits.detach() - rate * gradient).requires_grad_()
    return torch.softmax(logits.detach(), 0)


def limit(baseline: float) -> Tensor:
    """π* = [μ (r − V) − τ]⁺ / (V^μ − V) with τ such that it sums to 1, found by bisection."""
    mass = BEHAVIOUR * (REWARDS - baseline)
    low, high = float(mass.min()) - 1, float(mass.max())
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if (mass - tau).clamp(min=0).sum() > VALUE - baseline else (low, tau)
    return (mass - low).clamp(min=0) / (VALUE - baseline)


@pytest.mark.parametrize("below", [0.5, 0.2, 0.1, 0.02])
def test_a_baseline_below_the_value_ends_at_the_theorem(below: float) -> None:
    expected = limit(VALUE - below)
    assert (trained(VALUE - below, 3.5 / below, 3000) - expected).abs().max() < 1e-9


def test_the_nearer_the_baseline_to_the_value_the_fewer_arms_and_the_more_reward() -> None:
    policies = [limit(VALUE - below) for below in (0.5, 0.2, 0.1, 0.02)]
    support = [int((policy > 0).sum()) for policy in policies]
    rewards = [float((policy * REWARDS).sum()) for policy in policies]
    assert support == sorted(support, reverse=True) and support[0] > support[-1]
    assert rewards == sorted(rewards) and rewards[0] > VALUE


def test_a_baseline_above_the_value_collapses_to_one_arm() -> None:
    policy = trained(VALUE + 0.02, 5.0, 2000)
    assert policy.max() > 0.999
    assert policy.argmax() == (BEHAVIOUR * (REWARDS - VALUE - 0.02)).argmax()


def test_the_task_pays_the_arm_that_is_named() -> None:
    problem = Problem("1=", "1=", "")
    arms = [str(arm) for arm in range(TASK.arms)]
    grades = TASK.grade([problem] * (TASK.arms + 3), [*arms, "20", "", "07"])
    assert [grade.reward for grade in grades] == [*TASK.rewards.tolist(), 0.0, 0.0, 0.0]
    assert [grade.correct for grade in grades].count(True) == 1 and grades[int(TASK.rewards.argmax())].correct


def test_prompts_of_the_splits_are_apart_and_a_function_of_their_index() -> None:
    train = {problem.id for problem in TASK.train(1, range(500))}
    held_out = {problem.id for name in TASK.evaluation_splits() for problem in TASK.split(name)}
    assert not train & held_out and len(held_out) == TASK.size("validation") + TASK.size("test")
    assert TASK.train(1, [7]) == TASK.train(1, range(8))[-1:] != TASK.train(2, [7])
