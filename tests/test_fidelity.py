"""Gradient fidelity: right on known gradients, and nothing of the run changes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import SMALL, manifest, only_run, read_rows
from tests.test_learner import graded, gradient, learner

COLUMNS = ("fidelity/cosine", "fidelity/ceiling", "fidelity/norm_ratio")


def test_the_same_data_without_a_weight_agrees_with_itself() -> None:
    made, data = learner("reinforce"), graded()
    (update,) = made.step(data, (data, data))
    assert [update.metrics[name] for name in COLUMNS] == pytest.approx([1, 1, 1], abs=1e-6)


def test_opposite_rewards_are_seen_as_opposite_and_the_gradient_is_left_alone() -> None:
    plain, measured, data = learner("grpo"), learner("grpo"), graded()
    opposite = replace(data, rewards=1 - data.rewards)
    list(plain.step(data))
    (update,) = measured.step(data, (opposite, opposite))
    assert update.metrics["fidelity/cosine"] < 0
    assert update.metrics["fidelity/ceiling"] > 0.999
    assert gradient(measured).equal(gradient(plain))


@pytest.mark.parametrize("driver", ["serial", "overlapped"])
def test_a_run_with_fidelity_ends_with_the_same_weights(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, driver: str
) -> None:
    folders = {}
    for name, words in (("without", []), ("with", ["record.fidelity=8", f"driver={driver}"])):
        done = command(*SMALL, "algo=grpo", "staleness=8", *words, f"runs_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        folders[name] = only_run(tmp_path / name)
    assert len({manifest(folder)["final_weights_sha256"] for folder in folders.values()}) == 1
    for row in read_rows(folders["with"] / "metrics.jsonl"):
        assert (row["version"] % 8 == 0) == all(name in row for name in COLUMNS)
