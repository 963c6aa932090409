"""Nothing grows with the rollout batch: four times the responses, the same peak of what is allocated."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import algorithms
from harness.groups import LearnerConfig, ModelConfig
from harness.learner.learner import Learner
from harness.models.loading import LoadedModel, load_model
from harness.rollout.base import scored
from harness.rollout.interface import to_rollouts
from harness.types import GradedRollouts, Request, Rollouts
from tests.tiny import make_model

BUDGET, GROUP, PROMPT, RESPONSE = 270, 4, 20, 60


class Peak(TorchDispatchMode):
    """The most bytes that tensors made in the block held at once, temporaries inside a kernel left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.live = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.bytes = max(self.bytes, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def rollouts(prompts: int) -> Rollouts:
    generator = np.random.default_rng(0)
    request = Request(
        [generator.integers(2, 400, size=PROMPT).tolist() for _ in range(prompts)],
        np.zeros((prompts, GROUP), dtype=np.uint64),
        1.0,
        RESPONSE,
    )
    count = prompts * GROUP
    ids = torch.from_numpy(generator.integers(2, 400, size=count * RESPONSE))
    lengths = torch.full((count,), RESPONSE)
    return to_rollouts(request, ids, lengths, torch.full((len(ids),), -6.0), 0, [1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(ModelConfig(path=str(make_model(tmp_path_factory.mktemp("model"), hidden_size=64))), "cpu")


def peak(call: Callable[[], object]) -> int:
    with Peak() as counted:
        call()
    return counted.bytes


def test_what_is_counted_is_what_is_alive() -> None:
    def call() -> None:
        kept = torch.zeros(1000)
        torch.zeros(500)
        del kept
        torch.zeros(1200)

    assert peak(call) == 6000


def test_scoring_does_not_grow_with_the_batch(model: LoadedModel) -> None:
    one, four, whole = (
        peak(partial(scored, model.policy, rollouts(prompts), 1.0, budget))
        for prompts, budget in ((4, BUDGET), (16, BUDGET), (16, None))
    )
    assert four <= 1.1 * one < whole / 4


@pytest.mark.parametrize("method", ["m2po"])
def test_an_update_does_not_grow_with_the_batch(model: LoadedModel, method: str) -> None:
    def update(prompts: int) -> None:
        learner = Learner(
            model.policy,
            algorithms.make(method),
            LearnerConfig(lr=1e-9, micro_batch_tokens=BUDGET),
            updates_per_step=1,
            group_size=GROUP,
            temperature=1.0,
            behaviour="trainer",
        )
        batch = rollouts(prompts)
        graded = GradedRollouts(batch, torch.arange(batch.n_responses).double(), torch.ones(batch.n_responses).bool())
        list(learner.step(graded))

    one, four = (peak(partial(update, prompts)) for prompts in (4, 16))
    assert four <= 1.1 * one
