"""What any method can be given beside its loss, each against a naive loop: KL, entropy, advantages, learning rate."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import algorithms
from algorithms.advantages import advantages
from harness.errors import UserError
from harness.groups import LearnerConfig
from harness.learner.learner import Learner
from harness.learner.penalties import k3, penalised_rewards, penalty
from harness.learner.step_size import learning_rate
from harness.models import logprobs
from harness.models.decoder import SharedPrefixPolicy
from harness.models.logprobs import TokenScores, head_scores
from tests.test_learner import GROUP, graded, gradient, weights
from tests.test_torch_engine import model


def learner(reference: bool = False, updates: int | None = None, **settings: object) -> Learner:
    other = model("qwen3")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    return Learner(
        SharedPrefixPolicy(model("qwen3")),
        algorithms.make("grpo"),
        LearnerConfig(**({"lr": 1e-2, "grad_clip": 1e9} | settings)),  # type: ignore[arg-type]
        updates_per_step=1,
        group_size=GROUP,
        temperature=1.0,
        behaviour="trainer",
        updates=updates,
        reference=SharedPrefixPolicy(other) if reference else None,
    )


def stepped(made: Learner) -> Tensor:
    """The gradient of one update."""
    list(made.step(graded()))
    return gradient(made)


# Against autograd in float64 ---------------------------------------------------------------------------


def tokens() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits [3,4,7], targets [3,4], mask and reference log-probs [3,4], float64."""
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 7, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    return logits, torch.randint(7, (3, 4)), mask, -torch.rand(3, 4, dtype=torch.float64)


def naive(logits: Tensor, targets: Tensor, mask: Tensor, reference: Tensor, beta: float, eta: float) -> Tensor:
    """(1/N) Σ β (π_ref/π − 1 − log π_ref/π) − η H, a token at a time."""
    terms = []
    for i, j in mask.nonzero().tolist():
        p = torch.softmax(logits[i, j], 0)
        ratio = reference[i, j].exp() / p[targets[i, j]]
        terms.append(beta * (ratio - 1 - ratio.log()) + eta * sum(q * q.log() for q in p))
    return torch.stack(terms).mean()


def test_the_penalty_is_that_of_a_naive_loop() -> None:
    logits, targets, mask, reference = tokens()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    log_probs = torch.log_softmax(ours, -1)
    scores = TokenScores(log_probs.gather(-1, targets[..., None])[..., 0], -(log_probs.exp() * log_probs).sum(-1))
    config = LearnerConfig(kl_coefficient=0.3, entropy_bonus=0.2)
    value = penalty(config, scores, reference.masked_fill(~mask, math.nan), mask, "token_mean", None, None)
    expected = naive(theirs, targets, mask, reference, 0.3, 0.2)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_an_entropy_without_a_gradient_is_refused() -> None:
    logits, _, mask, _ = tokens()
    scores = TokenScores(logits[..., 0].clone().requires_grad_(), torch.ones(3, 4))
    with pytest.raises(UserError, match="entropy_bonus"):
        penalty(LearnerConfig(entropy_bonus=0.1), scores, None, mask, "token_mean", None, None)


def test_the_chunked_head_has_the_exact_gradient_of_the_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    head, targets = torch.nn.Linear(5, 11, bias=False), torch.randint(11, (13,))
    hidden = torch.randn(13, 5)
    found = []
    for chunk in (2**25, 33):
        monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk)
        x = hidden.clone().requires_grad_()
        scores = head_scores(x, head, targets, 0.7, entropy_gradient=True)
        loss = (scores.logp * torch.arange(13)).sum() - (scores.entropy * torch.arange(13).flip(0)).sum()
        found.append(torch.autograd.grad(loss, [x, head.weight]))
    for plain, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-4, atol=1e-5)


# In the learner ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["kl", "entropy"])
def test_a_term_of_the_loss_adds_its_gradient_whatever_the_micro_batches(part: str) -> None:
    settings = {"kl_coefficient": 0.5} if part == "kl" else {"entropy_bonus": 0.5}
    added = stepped(learner(part == "kl", **settings)) - stepped(learner())
    module = model("qwen3")
    made = learner(part == "kl", **settings)
    batch = made._prepared(graded(), 0)
    scores = SharedPrefixPolicy(module).score(batch.sequences, 1.0, entropy_gradient=True)
    mask = batch.sequences.mask
    if part == "kl":
        assert batch.logp_reference is not None
        term = 0.5 * k3(scores.logp, batch.logp_reference, mask)
    else:
        term = -0.5 * scores.entropy
    (term * mask).sum().div(mask.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    near = {"rtol": 1e-3, "atol": 1e-4 * float(expected.abs().max())}
    torch.testing.assert_close(added, expected, **near)
    split = stepped(learner(part == "kl", micro_batch_tokens=100, **settings)) - stepped(learner())
    torch.testing.assert_close(split, expected, **near)


def test_k1_in_the_reward_is_taken_before_the_mean_of_the_group() -> None:
    made = learner(reference=True, kl_coefficient=0.1, kl_in="reward", advantage="group_centred")
    batch = made._prepared(graded(), 0)
    assert batch.logp_reference is not None
    gap = batch.logp_behaviour.double() - batch.logp_reference
    shaped = [
        float(reward) - 0.1 * sum(gap[i, j].item() for j in range(gap.shape[1]) if batch.sequences.mask[i, j])
        for i, reward in enumerate(batch.rewards)
    ]
    means = np.repeat(np.reshape(shaped, (-1, GROUP)).mean(1), GROUP)
    assert batch.advantages.numpy() == pytest.approx(shaped - means, rel=1e-5, abs=1e-6)
    (update,) = made.step(graded())
    assert update.metrics["reward"] == pytest.approx(float(graded().rewards.mean()))
    assert update.metrics["kl_reference"] > 0


def test_a_reward_penalty_ignores_padding() -> None:
    mask = torch.tensor([[True, False]])
    logp, reference = torch.tensor([[-1.0, math.nan]]), torch.tensor([[-3.0, -1.0]])
    assert penalised_rewards(torch.ones(1).double(), 0.5, logp, reference, mask).tolist() == [0.0]


# Advantages --------------------------------------------------------------------------------------------


def test_every_estimator_is_its_formula() -> None:
    groups = [[1.0, 0.0, 0.0, 1.0], [0.1] * 4, [3.0, -1.0, 0.5, 0.0]]
    rewards = torch.tensor(groups, dtype=torch.float64)
    expected = {
        "group_centred": [[r - np.mean(g) for r in g] for g in groups],
        "rloo": [[r - np.mean(g[:i] + g[i + 1 :]) for i, r in enumerate(g)] for g in groups],
        "group_normalised": [[(r - np.mean(g)) / (np.std(g, ddof=1) + 1e-6) for r in g] for g in groups],
        "none": groups,
    }
    for name, values in expected.items():
        assert advantages(rewards, name).numpy() == pytest.approx(np.array(values), rel=1e-12, abs=1e-9), name
        assert advantages(rewards, name, 0.25).numpy() == pytest.approx(np.array(values) - 0.25, rel=1e-9), name
    for name in ("group_centred", "rloo", "group_normalised"):
        assert advantages(rewards.float(), name)[1].tolist() == [0.0] * 4
        assert advantages(rewards.float(), name, -0.1)[1].tolist() == [0.1] * 4


def test_bad_estimators_are_refused() -> None:
    with pytest.raises(ValueError, match="rloo, none"):
        advantages(torch.ones(2, 4), "mean")
    with pytest.raises(ValueError, match="at least 2"):
        advantages(torch.ones(2, 1), "rloo")


# The size of a step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_of_every_update(schedule: str) -> None:
    config = LearnerConfig(lr=2.0, schedule=schedule, warmup=4)
    rates = [learning_rate(config, done, 12) for done in range(12)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    fall = {
        "constant": lambda x: 2.0,
        "linear": lambda x: 2 * (1 - x),
        "cosine": lambda x: 1 + math.cos(math.pi * x),
    }[schedule]
    assert rates[4:] == pytest.approx([fall(i / 8) for i in range(8)])
    assert LearnerConfig().schedule == "constant" and LearnerConfig().warmup == 0


def test_the_optimizer_follows_the_schedule() -> None:
    made = learner(updates=4, schedule="linear", warmup=1)
    rates = [update.metrics["lr"] for _ in range(4) for update in made.step(graded())]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2 * 2 / 3, 1e-2 / 3])


def test_a_step_is_scaled_by_the_root_of_the_effective_sample_size() -> None:
    plain, scaled = learner(), learner(step_scale="sqrt_ess")
    (update,) = scaled.step(graded())
    ess = update.metrics["ess_sequence"]
    assert 0 < ess < 1 and update.metrics["lr"] == pytest.approx(1e-2 * math.sqrt(ess))
    list(plain.step(graded()))
    assert not torch.equal(weights(plain), weights(scaled))


def test_an_effective_sample_size_of_one_gives_the_bits_of_none() -> None:
    plain, scaled = learner(), learner(step_scale="sqrt_ess")
    fresh = graded()
    logp = plain._gradient.scores(plain._prepared(fresh, 0)).logp
    mask = plain._prepared(fresh, 0).sequences.mask
    fresh = replace(fresh, rollouts=replace(fresh.rollouts, logp_behaviour=logp[mask]))
    (update,) = scaled.step(fresh)
    list(plain.step(fresh))
    assert update.metrics["ess_sequence"] == 1
    assert torch.equal(weights(plain), weights(scaled))
