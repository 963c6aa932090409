"""The output head in rows, and attention without a mask, against the plain expressions that judge them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.models import decoder, head_rows, logprobs
from harness.models.attention import Respond, by_prompt_length, masked
from harness.models.head_rows import Chunks
from harness.models.sequences import SequenceBatch
from tests.test_torch_engine import VOCABULARY as WORDS
from tests.test_torch_engine import model

TOKENS, WIDTH, VOCABULARY, TEMPERATURE = 23, 16, 101, 0.7
MASK = torch.arange(TOKENS) % 5 != 0  # 18 tokens: two chunks and a part of one


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, nn.Linear, Tensor]:
    """Hidden states, a head and targets."""
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False).to(dtype)
    return torch.randn(TOKENS, WIDTH).to(dtype), head, torch.randint(VOCABULARY, (TOKENS,))


def found(hidden: Tensor, head: nn.Linear, targets: Tensor) -> list[Tensor]:
    """Log-probs and entropies of the tokens in the mask, and the gradients of a sum of both."""
    x = hidden.clone().requires_grad_()
    scores = logprobs.head_scores(x, head, targets, TEMPERATURE, mask=MASK, entropy_gradient=True)
    logp, entropy = scores.logp[MASK], scores.entropy[MASK]
    weights = torch.linspace(-1, 1, len(logp))
    loss = (logp * weights).sum() + (entropy * weights.flip(0)).sum()
    return [logp, entropy, *torch.autograd.grad(loss, [x, head.weight])]


def in_rows(monkeypatch: pytest.MonkeyPatch, chunks: Chunks) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(logprobs, "chunks_of", lambda *_: chunks)


def error(one: Tensor, other: Tensor) -> float:
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


@pytest.mark.parametrize("kind", ["plain", "padded", "compiled"])
def test_rows_give_the_scores_and_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    expected = found(*case())
    functions: list[Callable[..., object]] = [head_rows.scores, head_rows.gradient]
    if kind == "compiled":  # traced whole, in one shape; what makes kernels of it is the library's
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        functions = [torch.compile(f, backend="aot_eager", dynamic=False, fullgraph=True) for f in functions]
    in_rows(monkeypatch, Chunks(7, kind != "plain", *functions))  # type: ignore[arg-type]
    for ours, whole in zip(found(*case()), expected, strict=True):
        assert error(ours, whole) < 1e-6
    if kind == "compiled":
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_tokens_outside_the_mask_cost_nothing_and_score_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    in_rows(monkeypatch, Chunks(7, scores=lambda *parts: (rows.append(len(parts[1])), head_rows.scores(*parts))[1]))
    scores = logprobs.head_scores(*case(), TEMPERATURE, mask=MASK)
    assert sum(rows) == int(MASK.sum()) and not scores.logp[~MASK].any()
    none = logprobs.head_scores(*case(), TEMPERATURE, mask=torch.zeros_like(MASK))
    assert not none.logp.any() and none.logp.shape == MASK.shape


def test_the_error_of_bfloat16_is_that_of_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/gpu.md states it: rounding to 8 bits before the products, nothing more in what follows them."""
    exact = found(*case(torch.float64))
    in_rows(monkeypatch, Chunks(7))
    with torch.autocast("cpu", torch.bfloat16):
        ours = found(*case())
    errors = [error(one, other) for one, other in zip(ours, exact, strict=True)]
    assert max(errors[:2]) < 2e-3 and max(errors[2:]) < 1e-2, errors


def test_a_compiler_that_fails_is_said_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    head_rows.fused.cache_clear()

    def broken(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no compiler here\nand a trace")

    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.warns(UserWarning, match=r"torch.compile fails \(no compiler here\)"):
        assert head_rows.fused() is None
    head_rows.fused.cache_clear()


# Attention -----------------------------------------------------------------------------------------------


def batch() -> SequenceBatch:
    """Three prompts of two lengths with six responses."""
    return SequenceBatch(
        prompt_ids=torch.zeros(3, 5, dtype=torch.int64),
        prompt_lengths=torch.tensor([3, 5, 3]),
        group=torch.tensor([0, 0, 1, 2, 2, 1]),
        response_ids=torch.zeros(6, 7, dtype=torch.int64),
        mask=torch.ones(6, 7, dtype=torch.bool),
    )


@pytest.mark.parametrize("heads", [2, 4])
def test_parts_without_a_mask_see_what_the_mask_lets_through(heads: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(6, 6, heads, 8)
    keys, values = ([torch.randn(3, 5, 2, 8), torch.randn(6, 6, 2, 8)] for _ in range(2))

    def attended(respond: Respond) -> list[Tensor]:
        inputs = [x.clone().requires_grad_() for x in (q, *keys, *values)]
        out = respond(inputs[0], (inputs[1], inputs[2]), (inputs[3], inputs[4]))
        return [out, *torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), inputs)]

    for ours, theirs in zip(attended(by_prompt_length(batch())), attended(masked(batch(), torch.float32)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_model_scores_the_same_with_either(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = decoder.SharedPrefixPolicy(model("qwen3"))
    ids = torch.arange(60) % WORDS
    one = replace(batch(), prompt_ids=ids[:15].view(3, 5), response_ids=ids[15:57].view(6, 7))
    found = []
    for respond in (masked, lambda sequences, _: by_prompt_length(sequences)):
        monkeypatch.setattr(decoder, "response_attention", respond)
        policy.model.zero_grad()
        policy.score(one, 1.0).logp.sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
