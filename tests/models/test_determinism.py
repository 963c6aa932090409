"""deterministic=true: where the switch is on, and what the manifest says of bits."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


# What torch refuses on CUDA while the switch is on (torch.use_deterministic_algorithms).
REFUSED = {"cumsum", "cumsum_", "histc", "kthvalue", "median", "put_", "put", "scatter_reduce", "scatter_reduce_"}


class WhileOn(TorchDispatchMode):
    """The names of the operations on floats that are computed while the switch is on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        floats = any(isinstance(one, torch.Tensor) and one.is_floating_point() for one in args)
        if floats and torch.are_deterministic_algorithms_enabled():
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["per_decision", "gspo", "m2po"])
def test_nothing_is_computed_under_the_switch_that_a_gpu_would_refuse(method: str) -> None:
    made = learner(method)
    made._gradient._deterministic = True
    with WhileOn() as seen:
        list(made.step(graded()))
    assert {"mm", "embedding_dense_backward"} <= seen.names  # passes forward and backward
    assert not seen.names & REFUSED


def test_products_are_allowed_before_the_first_one() -> None:
    """torch reads the variable once, at the first product on a GPU, which need not be the learner's."""
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")


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
