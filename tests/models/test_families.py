"""Qwen2, Qwen3 and Llama, tiny, with a BPE tokenizer: one set of numbers whoever computes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness import randomness
from harness.groups import ModelConfig
from harness.models.decoder import SharedPrefixPolicy
from harness.models.loading import LoadedModel, load_model
from harness.models.policy import ComputePolicy, TransformersPolicy
from harness.models.sequences import SequenceBatch
from harness.rollout.base import scored
from harness.rollout.torch_engine import pad_prompts, sampled
from harness.types import Request
from tests.tiny import FAMILIES, make_model

PROMPTS = ["Ann has 12 books.", "Ben had 40 coins but lost 9 of them. How many?", "Cleo"]
ANSWERS = ["12+5=17\n#### 17", "40", "3*4=12 and more", "#### 8", "no", "1+1=3"]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_model(tmp_path_factory.mktemp(request.param), request.param, tie=request.param == "qwen3")
    return load_model(ModelConfig(path=str(folder)), "cpu")


def batch_of(model: LoadedModel) -> SequenceBatch:
    prompts, lengths = pad_prompts([model.tokenizer.encode(p) for p in PROMPTS], "cpu")
    responses, widths = pad_prompts([model.tokenizer.encode(a) for a in ANSWERS], "cpu")
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    return SequenceBatch(prompts, lengths, group, responses, torch.arange(responses.shape[1]) < widths[:, None])


def one_at_a_time(model: LoadedModel, batch: SequenceBatch) -> Tensor:
    """Log-probs from transformers' plain forward, one unpadded sequence after the other."""
    logp = torch.zeros(batch.response_ids.shape)
    for row, group in enumerate(batch.group.tolist()):
        start, length = int(batch.prompt_lengths[group]), int(batch.mask[row].sum())
        ids = torch.cat((batch.prompt_ids[group, :start], batch.response_ids[row, :length]))[None]
        logits = model.module(input_ids=ids).logits[0, start - 1 : -1]
        targets = batch.response_ids[row, :length, None]
        logp[row, :length] = torch.log_softmax(logits.float() / 0.7, -1).gather(-1, targets)[:, 0]
    return logp


def gradient(model: LoadedModel, logp: Tensor, mask: Tensor) -> Tensor:
    model.module.zero_grad()
    (logp * torch.linspace(-1, 1, logp.numel()).view(logp.shape))[mask].sum().backward()
    return torch.cat([p.grad.flatten() for p in model.module.parameters() if p.grad is not None])


def test_every_policy_gives_the_same_log_probs_and_gradients(model: LoadedModel) -> None:
    batch = batch_of(model)
    expected = one_at_a_time(model, batch)
    expected_gradient = gradient(model, expected, batch.mask)
    assert isinstance(model.policy, SharedPrefixPolicy)
    for policy in (model.policy, TransformersPolicy(model.module)):
        logp = policy.score(batch, 0.7).logp
        assert torch.allclose(logp[batch.mask], expected[batch.mask], atol=2e-5)
        result = gradient(model, logp, batch.mask)
        assert (result - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def test_decoding_agrees_with_scoring(model: LoadedModel) -> None:
    prompts = [model.tokenizer.encode(p) for p in PROMPTS]
    keys = randomness.keys(1, "sample", torch.arange(3).numpy()[:, None], torch.arange(4).numpy())
    for policy in (model.policy, TransformersPolicy(model.module)):
        request = Request(prompts, keys, 1.0, 12)
        rollouts = scored(policy, sampled(policy, model.end_tokens, request), 1.0)
        assert torch.allclose(rollouts.logp_engine, rollouts.logp_behaviour, atol=2e-5)


def test_bfloat16_compute_keeps_float32_master_weights(model: LoadedModel) -> None:
    batch = batch_of(model)
    exact = model.policy.score(batch, 1.0).logp
    for inner in (model.policy, TransformersPolicy(model.module)):
        policy = ComputePolicy(inner, torch.bfloat16)
        logp = policy.score(batch, 1.0).logp
        assert logp.dtype == torch.float32
        assert not torch.equal(logp, exact)
        assert (logp - exact)[batch.mask].abs().mean() < 0.05
        model.module.zero_grad()
        logp[batch.mask].sum().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.module.parameters() if p.grad is not None)
    keys = randomness.keys(1, "sample", torch.arange(3).numpy()[:, None], torch.arange(2).numpy())
    request = Request([model.tokenizer.encode(p) for p in PROMPTS], keys, 1.0, 6)
    rollouts = scored(policy, sampled(policy, model.end_tokens, request), 1.0)
    assert (rollouts.logp_engine - rollouts.logp_behaviour).abs().mean() < 0.1


def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    folder = str(make_model(tmp_path / "m", "llama", attention_dropout=0.5))
    plain = load_model(ModelConfig(path=folder), "cpu")
    saving = load_model(ModelConfig(path=folder, gradient_checkpointing=True), "cpu")
    batch = batch_of(plain)
    expected = gradient(plain, plain.policy.score(batch, 1.0).logp, batch.mask)
    for inner in (saving.policy, TransformersPolicy(saving.module)):
        policy = inner if isinstance(inner, ComputePolicy) else ComputePolicy(inner, torch.float32)
        result = gradient(saving, policy.score(batch, 1.0).logp, batch.mask)
        assert torch.allclose(result, expected, atol=1e-5)
        assert not saving.module.training
