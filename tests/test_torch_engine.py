"""The torch engine: every sequence as if it were sampled alone, whatever is beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from harness import randomness
from harness.models.decoder import SharedPrefixPolicy, supports
from harness.models.policy import Policy, TransformersPolicy
from harness.rollout.base import scored
from harness.rollout.torch_engine import nucleus, sample, sampled
from harness.types import Request, Rollouts

END, VOCABULARY, LIMIT = 1, 17, 12
SHAPE = {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "initializer_range": 0.4}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def model(family: str) -> PreTrainedModel:
    torch.manual_seed(3)
    if family == "gpt2":
        made: PreTrainedModel = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **SHAPE))
    elif family == "llama":
        made = LlamaForCausalLM(LlamaConfig(**SHAPE, **LLAMA, num_key_value_heads=2))
    else:
        made = Qwen3ForCausalLM(Qwen3Config(**SHAPE, **LLAMA, num_key_value_heads=2, head_dim=8))
    return made.double().eval()


def policies() -> list[tuple[str, Policy]]:
    found: list[tuple[str, Policy]] = []
    for family in ("gpt2", "llama", "qwen3"):
        module = model(family)
        found.append((f"{family}-transformers", TransformersPolicy(module)))
        if supports(module):
            found.append((f"{family}-shared", SharedPrefixPolicy(module)))
    return found


POLICIES = policies()
every_policy = pytest.mark.parametrize("policy", [p for _, p in POLICIES], ids=[n for n, _ in POLICIES])


def request(samples: int = 4, temperature: float = 0.9, limit: int = LIMIT) -> Request:
    generator = np.random.default_rng(0)
    prompts = [generator.integers(2, VOCABULARY, size=length).tolist() for length in (3, 9, 1, 5)]
    keys = randomness.keys(7, "sample", 0, np.arange(len(prompts))[:, None], np.arange(samples))
    return Request(prompts, keys, temperature, limit)


def generate(policy: Policy, full: Request) -> Rollouts:
    rollouts = sampled(policy, [END], full)
    return scored(policy, rollouts, full.temperature) if full.temperature else rollouts


@every_policy
def test_a_batch_gives_the_tokens_of_one_at_a_time(policy: Policy) -> None:
    full = request()
    together = generate(policy, full)
    alone = [
        generate(policy, Request([prompt], full.keys[g : g + 1, i : i + 1], full.temperature, LIMIT))
        for g, prompt in enumerate(full.prompts)
        for i in range(full.samples)
    ]
    assert together.responses() == [one.responses()[0] for one in alone]
    for name in ("logp_engine", "logp_behaviour"):
        expected = torch.cat([getattr(one, name) for one in alone])
        assert torch.allclose(getattr(together, name), expected, atol=1e-6)


@every_policy
@pytest.mark.parametrize("cut", [0, 5, LIMIT])
def test_a_beginning_stays_though_other_responses_end_early(policy: Policy, cut: int) -> None:
    full = request(samples=8)
    begun = generate(policy, full)
    other = replace(full, keys=full.keys[::-1, ::-1].copy(), begun=begun, cuts=np.full(full.keys.shape, cut))
    for before, after in zip(begun.responses(), generate(policy, other).responses(), strict=True):
        assert after[:cut] == before[:cut] and (len(before) > cut or after == before)


@every_policy
def test_responses_end_at_the_end_token_or_the_limit(policy: Policy) -> None:
    rollouts = generate(policy, request(samples=8))
    assert rollouts.finished.any() and not rollouts.finished.all()
    for tokens, finished in zip(rollouts.responses(), rollouts.finished.tolist(), strict=True):
        assert END not in tokens[:-1]
        assert (tokens[-1] == END) == finished
        assert finished or len(tokens) == LIMIT


@every_policy
def test_the_engine_reports_the_trainers_log_probs(policy: Policy) -> None:
    rollouts = generate(policy, request())
    assert torch.allclose(rollouts.logp_engine, rollouts.logp_behaviour, atol=1e-5)


def test_shared_prefixes_change_no_token() -> None:
    for family in ("llama", "qwen3"):
        module = model(family)
        ours, theirs = (generate(policy(module), request()) for policy in (SharedPrefixPolicy, TransformersPolicy))
        assert ours.responses() == theirs.responses()
        assert torch.allclose(ours.logp_behaviour, theirs.logp_behaviour, atol=1e-5)


@every_policy
def test_greedy_takes_the_likeliest_token(policy: Policy) -> None:
    rollouts = generate(policy, request(samples=2, temperature=0.0))
    responses = rollouts.responses()
    assert responses[0::2] == responses[1::2]
    ids = torch.tensor([*request().prompts[1], *responses[2]])[None]
    with torch.no_grad():
        logits = policy.model(input_ids=ids).logits[0, len(request().prompts[1]) - 1 : -1]
    assert logits.argmax(-1).tolist() == responses[2]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.3, [0, 0.4, 0, 0]),  # the likeliest alone reaches it
        (0.4, [0, 0.4, 0, 0]),
        (0.5, [0, 0.4, 0.3, 0]),
        (0.75, [0.2, 0.4, 0.3, 0]),
        (0.95, [0.2, 0.4, 0.3, 0.1]),
    ],
)
def test_nucleus_by_hand(top_p: float, kept: list[float]) -> None:
    probs = torch.tensor([[0.2, 0.4, 0.3, 0.1]])
    assert nucleus(probs, top_p)[0].tolist() == pytest.approx(kept)


def test_truncated_samples_stay_inside_and_keep_their_proportions() -> None:
    logits = torch.tensor([0.2, 0.4, 0.3, 0.1]).log().expand(7000, 4)
    tokens, logp = sample(logits, (torch.arange(7000, dtype=torch.float64) + 0.5) / 7000, 1.0, top_p=0.5)
    assert torch.bincount(tokens, minlength=4).tolist() == [0, 4000, 3000, 0]
    assert logp[0].item() == pytest.approx(torch.tensor(0.4).log().item())  # that of the whole softmax


def test_one_new_token() -> None:
    rollouts = generate(SharedPrefixPolicy(model("llama")), request(limit=1))
    assert rollouts.response_lengths.tolist() == [1] * 16
