"""Whole runs with rollout=vllm: evaluation of a checkpoint and of a base model, and an engine in a Ray actor."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.command.cell import run_cell
from harness.command.plan import plan
from harness.records.files import read_json
from tests.conftest import ROOT, SMALL, manifest, read_rows
from tests.vllm_marks import NEEDS_VLLM

pytestmark = NEEDS_VLLM

SHORT = (*SMALL, "rollout.max_prompt_tokens=32", "updates=8", "eval.samples=4")
BASE = "harness/assets/carry"


def ran(folder: Path, *overrides: str) -> Path:
    (config,) = plan([*SHORT, f"runs_dir={folder}", *overrides]).cells
    assert run_cell(config) == "finished", manifest(config.folder)["error"]
    return config.folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("update", [0, 8])
def test_base_model_and_checkpoint_are_evaluated(tmp_path: Path, trained: Path, update: int) -> None:
    checkpoint = f"{trained}/checkpoints/000008" if update else BASE
    found = ran(tmp_path, "mode=evaluate", "rollout=vllm", f"checkpoint={checkpoint}")
    rows = read_rows(found / "eval.jsonl")
    assert [(row["update"], row["split"], row["n"], row["k"]) for row in rows] == [
        (update, "validation", 8, 4),
        (update, "test", 8, 4),
    ]
    for row in rows:
        share = row["pass_at_k"]
        assert list(share) == ["1", "2", "4"]
        assert share["1"] == pytest.approx(row["sampled_accuracy"])
        assert share["1"] <= share["2"] <= share["4"]
        assert row["greedy_accuracy"] is not None
    base = read_json(ROOT / BASE / "recipe.json")["weights_sha256"]
    # That vLLM serves these weights is what its probe has made sure of.
    assert manifest(found)["final_weights_sha256"] == (manifest(trained)["final_weights_sha256"] if update else base)


def test_an_engine_that_only_samples_keeps_no_replica(tmp_path: Path) -> None:
    alone = ("rollout.behaviour=engine", "rollout.vllm.probe_sequences=0")
    found = ran(tmp_path, "driver=overlapped", "rollout=vllm", "staleness=4", "eval.every=8", *alone)
    first = read_rows(found / "metrics.jsonl")[0]
    assert first["staleness_mean"] == 0 and first["m2_before"] < 1e-6  # vLLM has the learner's weights


def test_an_engine_in_a_ray_actor(tmp_path: Path) -> None:
    lag = ("staleness=4", "updates=12", "eval.every=12", "learner.lr=1e-3")
    found = ran(tmp_path, "driver=ray", "rollout=vllm", "rollout.chunks=2", *lag)
    rows = read_rows(found / "metrics.jsonl")
    # One step behind: the third batch is the first from weights that were sent to the actor during the run.
    assert [row["staleness_mean"] for row in rows] == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    # What vLLM says of its tokens is what the actor's replica of the trainer says.
    assert max(row["engine_gap_max"] for row in rows) < 1e-3
