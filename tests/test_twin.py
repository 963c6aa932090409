"""The exact twin: known answers about expected updates, without sampling noise."""

from __future__ import annotations

import pytest
import torch

import algorithms
from harness.learner.twin import BATCH, CURRENT, STALENESS, Twin, expected, methods, twin


@pytest.fixture(scope="module")
def task() -> Twin:
    return twin()


def test_probabilities_sum_to_one_and_training_helps(task: Twin) -> None:
    for update in (0, 100, CURRENT):
        assert float(task.probabilities(task.policies[update]).sum()) == pytest.approx(1, abs=1e-12)
    assert task.value(task.policies[CURRENT]) > 2 * task.value(task.policies[0])


def test_the_gradients_of_tokens_are_those_of_autograd(task: Twin) -> None:
    policy = task.policies[50].clone().requires_grad_()
    weights = torch.rand(task.responses.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * task.log_probs(policy)).sum(), policy)
    mine = torch.einsum("kt,ktp->p", weights, task.token_gradients(task.policies[50]))
    torch.testing.assert_close(mine, gradient.flatten(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("staleness", [*STALENESS, 1, 200])
def test_exact_importance_sampling_of_sequences_is_unbiased_at_every_lag(task: Twin, staleness: int) -> None:
    found = expected(task, algorithms.make("tis", level="sequence", ratio_cap=1e6), staleness)
    assert found.cosine == pytest.approx(1, abs=1e-9)
    assert found.norm_ratio == pytest.approx(1, abs=1e-9)
    assert found.bias == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["grpo", "m2po", "tis", "no_trust_region", "decoupled", "cispo"])
def test_on_policy_every_method_is_the_true_gradient(task: Twin, name: str) -> None:
    found = expected(task, algorithms.make(name), 0)
    assert found.cosine == pytest.approx(1, abs=1e-3 if name == "m2po" else 1e-9)
    assert found.norm_ratio == pytest.approx(1, abs=1e-3 if name == "m2po" else 1e-9)


def test_the_noise_is_that_of_sampled_mini_batches(task: Twin) -> None:
    method = algorithms.make("grpo")
    exact = expected(task, method, 16)
    tokens, truth = task.token_gradients(task.policies[CURRENT]), task.true_gradient(task.policies[CURRENT])
    mu = task.probabilities(task.policies[CURRENT - 16])
    generator, updates = torch.Generator().manual_seed(1), []
    for _ in range(300):
        rows = torch.multinomial(mu, BATCH, replacement=True, generator=generator)
        logp = task.log_probs(task.policies[CURRENT])[rows].requires_grad_()
        stats = task.stats(16, rows)
        fields = {name: getattr(stats, name) for name in ("logp_behaviour", "advantages", "mask")}
        method(algorithms.TokenStats(logp, **fields)).loss.backward()
        assert logp.grad is not None
        updates.append(-torch.einsum("nt,ntp->p", logp.grad, tokens[rows]) * logp.shape[1])
    found = torch.stack(updates)
    assert float(found.var(0).sum().sqrt() / truth.norm()) == pytest.approx(exact.noise, rel=0.05)
    error = found.std(0).norm() / 300**0.5 / truth.norm()
    distance = (found.mean(0) - truth).norm() / truth.norm()
    assert float(distance) == pytest.approx(exact.bias, abs=4 * float(error))


@pytest.mark.parametrize("name", list(methods()))
def test_every_method_has_figures(task: Twin, name: str) -> None:
    found = expected(task, methods()[name], 64)
    assert -1 <= found.cosine <= 1 + 1e-9 and found.norm_ratio > 0 and found.noise > 0
