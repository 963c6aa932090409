"""deterministic=true: where the switch is on, and what the manifest says of bits."""

from __future__ import annotations

import pytest
import torch

from harness.command.plan import plan
from harness.errors import UserError
from harness.models.determinism import deterministic
from harness.records.manifest import bits
from tests.test_learner import graded, learner


@pytest.mark.parametrize("enabled", [False, True])
def test_the_switch_is_on_for_the_gradient_alone(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    made = learner(micro_batch_tokens=100)
    made._gradient._deterministic = enabled
    seen: list[tuple[bool, bool]] = []
    score = made.policy.score

    def watched(*arguments: object, **options: object) -> object:
        seen.append((torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()))
        return score(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(made.policy, "score", watched)
    list(made.step(graded()))
    assert {switch for gradient, switch in seen if gradient} == {enabled}
    assert {switch for gradient, switch in seen if not gradient} == {False}
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_switch_is_put_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="so"), deterministic(True):
        raise ValueError("so")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "promised"),
        (["device=cuda", "deterministic=true"], "promised"),
        (["device=cuda"], "not promised: device=cuda without deterministic=true"),
        (["lag=bounded", "staleness=8", "driver=overlapped"], "not promised: lag=bounded depends on the clock"),
        (["rollout=vllm"], "not promised: rollout=vllm samples with kernels of its own"),
    ],
)
def test_the_manifest_says_whether_bits_are_promised(overrides: list[str], said: str) -> None:
    (config,) = plan(["tracking=none", "dry_run=true", *overrides]).cells
    assert bits(config) == said


def test_one_process_does_not_sample_while_it_learns_deterministically() -> None:
    with pytest.raises(UserError, match="use driver=serial or driver=ray"):
        plan(["tracking=none", "dry_run=true", "device=cuda", "deterministic=true", "driver=overlapped", "staleness=4"])
