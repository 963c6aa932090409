"""The learner: one gradient whatever the micro-batches, and nothing touched by a refused update."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import algorithms
from algorithms import TokenStats
from harness import randomness
from harness.groups import LearnerConfig
from harness.learner.batch import minibatch
from harness.learner.learner import Learner
from harness.models.decoder import SharedPrefixPolicy
from harness.models.logprobs import TokenScores
from harness.rollout.base import scored
from harness.rollout.torch_engine import sampled
from harness.types import GradedRollouts, Request
from tests.test_torch_engine import END, VOCABULARY, model

GROUP = 4


def graded() -> GradedRollouts:
    """Six prompts of different lengths, four responses each, sampled by another model: ratios far from 1."""
    generator = np.random.default_rng(1)
    prompts = [generator.integers(2, VOCABULARY, size=length).tolist() for length in (3, 7, 2, 5, 1, 6)]
    keys = randomness.keys(5, "sample", 0, np.arange(len(prompts))[:, None], np.arange(GROUP))
    sampler = model("qwen3")
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.mul_(0.95)
    policy = SharedPrefixPolicy(sampler)
    rollouts = scored(policy, sampled(policy, [END], Request(prompts, keys, 1.0, 10), version=-1), 1.0)
    rewards = torch.from_numpy(generator.integers(0, 2, size=rollouts.n_responses)).double()
    return GradedRollouts(rollouts, rewards, torch.ones(rollouts.n_responses, dtype=torch.bool))


def learner(method: str | algorithms.Algorithm = "m2po", **settings: object) -> Learner:
    return Learner(
        SharedPrefixPolicy(model("qwen3")),
        algorithms.make(method) if isinstance(method, str) else method,
        LearnerConfig(lr=1e-2, **settings),  # type: ignore[arg-type]
        updates_per_step=1,
        group_size=GROUP,
        temperature=1.0,
        behaviour="trainer",
    )


def weights(made: Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in made.policy.model.parameters()])


def gradient(made: Learner) -> Tensor:
    return torch.cat([p.grad.flatten() for p in made.policy.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("method", ["grpo", "m2po", "gspo", "decoupled"])
@pytest.mark.parametrize("budget", [40, 100, 300])
def test_the_gradient_does_not_depend_on_the_micro_batches(method: str, budget: int) -> None:
    whole, split = learner(method), learner(method, micro_batch_tokens=budget)
    rows = [next(iter(made.step(graded()))).metrics for made in (whole, split)]
    assert torch.allclose(gradient(whole), gradient(split), rtol=1e-4, atol=1e-6 * float(gradient(whole).abs().max()))
    for name in ("grad_norm", "m2_before", "masked_fraction", "loss"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-4, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize(
    ("method", "version", "passes"),
    [
        ("m2po", 0, (0, 1)),  # the first update learns from its own samples: their log-probs are at hand
        ("m2po", -2, (1, 1)),  # stale ones must be scored again
        ("decoupled", -2, (0, 1)),  # the proximal policy of the first update is the one that learns
        ("areal", -2, (1, 2)),
    ],
)
def test_no_pass_computes_what_is_at_hand(
    monkeypatch: pytest.MonkeyPatch, method: str, version: int, passes: tuple[int, int]
) -> None:
    made = learner(
        algorithms.make("m2po", variant="areal") if method == "areal" else algorithms.make(method),
        micro_batch_tokens=100,
    )
    made._updates_per_step = 2
    batch = graded()
    rollouts = replace(batch.rollouts, version=torch.full_like(batch.rollouts.version, version))
    calls: list[bool] = []
    score = made.policy.score

    def counted(*arguments: Any, **options: Any) -> TokenScores:
        calls.append(torch.is_grad_enabled())
        return score(*arguments, **options)

    monkeypatch.setattr(made.policy, "score", counted)
    updates = made.step(replace(batch, rollouts=rollouts))
    next(updates)
    first = sum(calls)
    next(updates)
    second = sum(calls) - first
    assert min(first, second) > 1
    assert calls.count(False) == passes[0] * first + passes[1] * second


def test_micro_batch_scope_is_another_method() -> None:
    whole, split = learner(), learner(micro_batch_tokens=100, scope="micro_batch")
    for made in (whole, split):
        list(made.step(graded()))
    assert not torch.allclose(gradient(whole), gradient(split), rtol=1e-2)


def test_the_learner_does_what_a_naive_loop_does() -> None:
    made = learner("grpo")
    batch = minibatch(graded(), 0, "trainer", made._advantages, "cpu")
    module = model("qwen3")
    rows = []
    for row, group in enumerate(batch.sequences.group.tolist()):
        prompt = batch.sequences.prompt_ids[group, : batch.sequences.prompt_lengths[group]]
        ids = torch.cat((prompt, batch.sequences.response_ids[row]))[None]
        logits = module(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        rows.append(torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])[:, 0])
    stats = TokenStats(torch.stack(rows), batch.logp_behaviour, batch.advantages, batch.sequences.mask)
    algorithms.make("grpo")(stats).loss.backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    norm = expected.norm()
    (update,) = made.step(graded())
    assert update.metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert torch.allclose(gradient(made) * max(1.0, float(norm)), expected, rtol=1e-3, atol=1e-5 * float(norm))


@pytest.mark.parametrize("what", ["reward", "behaviour"])
def test_a_refused_update_touches_nothing_and_counts(what: str) -> None:
    made, batch = learner(), graded()
    before = weights(made)
    if what == "reward":
        batch = replace(batch, rewards=batch.rewards.index_fill(0, torch.tensor([2]), float("nan")))
    else:
        spoiled = batch.rollouts.logp_behaviour.clone()
        spoiled[3] = float("nan")
        batch = replace(batch, rollouts=replace(batch.rollouts, logp_behaviour=spoiled))
    (update,) = made.step(batch)
    assert update.refusal is not None and update.metrics["refused"] == 1
    assert torch.equal(weights(made), before)
    assert not made.optimizer.state and made.version == 1


def test_a_batch_without_trained_tokens_is_skipped() -> None:
    made, batch = learner(), graded()
    before = weights(made)
    (update,) = made.step(replace(batch, trained=torch.zeros_like(batch.trained)))
    assert update.metrics["skipped"] == 1 and update.refusal is None
    assert torch.equal(weights(made), before)


def test_updates_share_a_batch_in_order() -> None:
    made = learner("grpo")
    made._updates_per_step = 3
    versions = [update.metrics["version"] for update in made.step(graded())]
    assert versions == [0, 1, 2] and made.version == 3


def test_two_epochs_are_the_batch_twice() -> None:
    twice, once = (learner("no_trust_region", max_epochs=epochs) for epochs in (2, 1))
    twice._updates_per_step, once._updates_per_step = 4, 2
    rows = [update.metrics for update in twice.step(graded())]
    again = [update.metrics for _ in range(2) for update in once.step(graded())]
    assert torch.equal(weights(twice), weights(once))
    assert [row["loss"] for row in rows] == [row["loss"] for row in again] and len(rows) == 4
    assert rows[0]["staleness_mean"] + 2 == rows[2]["staleness_mean"]  # the same tokens, two updates later


def test_where_the_trainers_log_probs_are_not_computed_there_is_no_gap_to_the_engines() -> None:
    made = learner()
    made._behaviour = "engine"
    (update,) = made.step(graded())
    gaps = [value for name, value in update.metrics.items() if name.startswith("engine_gap")]
    assert len(gaps) == 3 and all(map(math.isnan, gaps))
