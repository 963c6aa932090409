"""A distribution of ages: every batch has those that were asked for, whoever generates, however often it stops."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from short_runs import Ran, configured
from test_driver_equality import Delayed

from harness.command.cell import run_cell
from harness.drivers.mixed_queue import MixedQueue
from harness.lag.ages import read
from harness.types import Batch
from tests.conftest import read_rows

MIXED = ("staleness=uniform:0:8", "updates=16", "eval.every=16")


@pytest.fixture
def popped(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every batch that leaves the queues of a test."""
    seen: list[Batch] = []
    pop = MixedQueue.pop

    def spied(self: MixedQueue, *arguments: Any) -> Batch:
        seen.append(pop(self, *arguments))
        return seen[-1]

    monkeypatch.setattr(MixedQueue, "pop", spied)
    return seen


def versions(batch: Batch) -> list[int]:
    """The version that sampled each prompt of a batch: one for all of its responses."""
    found = []
    for chunk in batch.chunks:
        for prompt in range(chunk.rollouts.n_prompts):
            (version,) = set(chunk.rollouts.prompts(prompt, prompt + 1).version.tolist())
            found.append(version)
    return found


@pytest.mark.parametrize("age", [0, 8])
def test_a_distribution_of_one_age_is_the_constant_lag(run: Any, age: int) -> None:
    mixed = run(f"staleness=uniform:{age}:{age}", "rollout.chunks=3")
    assert mixed.sha256 == run(f"staleness={age}", "rollout.chunks=3").sha256


@pytest.mark.parametrize("text", ["uniform:0:16", "two_point:0:16:.25", "long_tail:8", "by_length:0:16"])
def test_every_batch_has_the_ages_that_were_asked_for(run: Any, popped: list[Batch], text: str) -> None:
    ran = run(f"staleness={text}", "updates=32", "eval.every=32", "rollout.chunks=2")
    asked = read(text).ascending(8, 4)
    assert ran.outcome == "finished" and len(popped) == 8
    for number, batch in enumerate(popped):
        ages = sorted(4 * number - version for version in versions(batch))
        assert ages == sorted(min(age, 4 * number) for age in asked.tolist())
    rows = read_rows(ran.folder / "metrics.jsonl")
    for row in rows:
        assert set(map(int, row["staleness_hist"])) <= {
            min(age, row["version"] // 4 * 4) + row["version"] % 4 for age in asked.tolist()
        }


def test_longer_ones_are_older(run: Any, popped: list[Batch]) -> None:
    run(
        "experiment=carry_long",
        "staleness=by_length:0:16",
        "updates=24",
        "eval.every=24",
        "task.validation_problems=16",
    )
    rollouts = popped[-1].chunks[0].rollouts
    # A prompt of n terms has 2 n + 1 characters.
    order = sorted(zip(rollouts.prompt_lengths.tolist(), versions(popped[-1]), strict=True))
    assert [version for _, version in order] == sorted(versions(popped[-1]), reverse=True)
    assert len(Counter(versions(popped[-1]))) > 3


def test_overlapped_gives_the_weights_of_serial(run: Any, engines: Any) -> None:
    lag = (*MIXED, "rollout.chunks=3")
    serial = run(*lag)
    engines(Delayed)
    assert run(*lag, "driver=overlapped", "lag.max_versions=1").sha256 == serial.sha256


def test_ray_gives_the_weights_of_serial(run: Any, engines: Any, cluster: Any) -> None:
    cluster.cloudpickle.register_pickle_by_value(sys.modules[Delayed.__module__])
    lag = (*MIXED, "rollout.chunks=3")
    serial = run(*lag)
    engines(Delayed)
    assert run(*lag, "driver=ray", "ray.actors=2").sha256 == serial.sha256


def test_two_ranks_give_the_weights_of_one(run: Any) -> None:
    assert run(*MIXED, "driver=overlapped", "ranks=2").sha256 == run(*MIXED).sha256


def test_chunks_change_nothing(run: Any) -> None:
    assert run(*MIXED, "rollout.chunks=1").sha256 == run(*MIXED, "rollout.chunks=8").sha256


def test_a_run_that_is_paused_in_between_ends_with_the_same_weights(run: Any, tmp_path: Path) -> None:
    whole = run(*MIXED)
    for stop in ("stop_at=4", "stop_at=12", "stop_at=null"):
        parts = configured(tmp_path / "parts", *MIXED, stop)
        outcome = run_cell(parts)
    assert outcome == "finished"
    assert Ran(outcome, parts.folder).sha256 == whole.sha256
    rows = [read_rows(folder / "metrics.jsonl") for folder in (whole.folder, parts.folder)]
    assert [row["staleness_hist"] for row in rows[0]] == [row["staleness_hist"] for row in rows[1]]
