"""Emulated engine mismatch: none is nothing, and every kind is as far from the trainer as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness import build, randomness
from harness.command.plan import plan
from harness.errors import UserError
from harness.rollout.mismatch import gaussian_noise, rounded
from harness.types import Request, Rollouts


def rollouts(*overrides: str, temperature: float = 1.0) -> Rollouts:
    config = plan([*overrides, "tracking=none"]).cells[0]
    model = build.model(config)
    engine = build.rollout_engine(config, model)
    engine.load(0, model.module.state_dict())
    prompts = [model.tokenizer.encode(prompt) for prompt in ("27+8+5+9+3+6=", "11+1+2+3+4+5=")]
    keys = randomness.keys(3, "sample", np.arange(2)[:, None], np.arange(600))
    return engine.generate(Request(prompts, keys, temperature, 24))


def test_gaussian_noise_has_the_divergence_that_theory_gives_it():
    sigma, draws = 0.05, 20_000
    logits = torch.linspace(-2, 2, 16, dtype=torch.float64).expand(draws, -1)
    noise = gaussian_noise(np.arange(draws, dtype=np.uint64), 0, sigma, logits)
    assert abs(noise.std().item() / sigma - 1) < 0.01 and abs(noise.mean().item()) < 0.001
    p = logits.softmax(-1)
    divergence = (p * (logits.log_softmax(-1) - (logits + noise).log_softmax(-1))).sum(-1).mean()
    expected = sigma**2 / 2 * (1 - p[0].square().sum())
    assert abs(divergence / expected - 1).item() < 0.05


def test_noise_is_keyed_by_sequence_and_step():
    like = torch.zeros(3, 8)
    keys = np.array([5, 6, 7], dtype=np.uint64)
    first, again, later = (gaussian_noise(keys, step, 1.0, like) for step in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, later)
    assert torch.equal(gaussian_noise(keys[[2, 0]], 0, 1.0, like[:2]), first[[2, 0]])


def test_the_engine_samples_with_the_noise_and_says_so():
    """KL(q‖p) of the tokens sampled from q, by the low-variance estimator, against theory."""
    got = rollouts("rollout.mismatch=gaussian", "rollout.mismatch_sigma=0.3")
    log_ratio = (got.logp_behaviour - got.logp_engine).double()
    divergence = (log_ratio.expm1() - log_ratio).mean().item()
    assert 0 < divergence < 0.3**2 / 2
    plain = rollouts()
    assert (plain.logp_behaviour - plain.logp_engine).abs().max() < 1e-4


@pytest.mark.parametrize(("kind", "least", "most"), [("bf16", 1e-4, 0.02), ("fp8", 1e-3, 0.2)])
def test_rounded_weights_shift_log_probs_by_their_precision(kind, least, most):
    got = rollouts(f"rollout.mismatch={kind}")
    gap = (got.logp_behaviour - got.logp_engine).abs().mean().item()
    assert least < gap < most


def test_rounding_is_the_types_own():
    weight = torch.randn(5, 64)
    assert torch.equal(rounded(weight, "bf16"), weight.bfloat16().float())
    assert (
        (rounded(weight, "fp8") - weight).abs() <= weight.abs() / 16 + weight.abs().amax(-1, keepdim=True) / 448
    ).all()
    assert torch.equal(rounded(torch.zeros(2, 4), "fp8"), torch.zeros(2, 4))


def test_another_engine_refuses_to_emulate():
    with pytest.raises(UserError, match=r"rollout\.mismatch=bf16 with rollout=vllm: expected none"):
        plan(["rollout=vllm", "rollout.mismatch=bf16"])
