"""An engine and a staleness policy from another package, named by `_target_` and run by run.py."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from elsewhere.engine import PlainEngine
from short_runs import PROJECT, SHORT, configured

from harness.config import Config
from harness.errors import UserError
from harness.groups import ModelConfig, RolloutConfig
from harness.models.loading import load_model

HERE = Path(__file__).parent
OUTSIDE = ("lag=every_few", "rollout=plain", f"hydra.searchpath=[file://{HERE}/elsewhere/conf]")
FREE = ("lag=bounded", "staleness=8")
ALLOWED = (*OUTSIDE, "allow_code=[elsewhere]")
SMALL = (*SHORT[:-2], "task.validation_problems=4", "task.test_problems=4", "rollout.chunks=2", "updates=16",
         "eval.every=16", "learner.lr=1e-3")  # fmt: skip


@pytest.fixture
def finished(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of a run of run.py, and what it said."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(PROJECT))))

    def ran(*overrides: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        folder = tmp_path / overrides[0].replace("=", "-")
        ended = command(*SMALL, *ALLOWED, *overrides, f"runs_dir={folder}")
        path = next(folder.glob("carry/m2po-every_few0-seed1-*/manifest.json"), None)
        assert path is not None, ended.stderr
        rows = path.parent / "metrics.jsonl"
        lines = rows.read_text().splitlines() if rows.exists() else []
        return json.loads(path.read_text()), [json.loads(line) for line in lines]

    return ran


def test_both_run_serial_and_overlapped_to_the_same_weights(finished: Any) -> None:
    serial, rows = finished("driver=serial")
    overlapped, more = finished("driver=overlapped")
    assert serial["status"] == overlapped["status"] == "finished"
    assert serial["final_weights_sha256"] == overlapped["final_weights_sha256"]
    for row in rows + more:
        step, within = divmod(row["update"] - 1, 4)
        assert row["staleness_min"] == row["staleness_max"] == 4 * (step % 2) + within
        # Its log-probs are the engine's own; those of training are the trainer's.
        assert 0 < row["engine_gap_max"] < 1e-4


def test_the_probe_finds_an_engine_that_keeps_old_weights(finished: Any) -> None:
    manifest, rows = finished("driver=serial", "+rollout.options.takes_weights=false", "learner.lr=1e-2")
    assert manifest["status"] == "failed"
    assert manifest["error"].startswith("PlainEngine does not serve version 4: its log-probs are ")
    assert "rollout.probe_tolerance=0.001" in manifest["error"]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (OUTSIDE, r"lag\._target_=elsewhere\.policy\.EveryFew: code from outside; to run it add allow_code"),
        ((*ALLOWED, "lag.period=0"), "lag.period=0: expected at least 1"),
        ((*ALLOWED, "+lag.max_versions=0"), "lag.max_versions=0: expected at least 1"),
        ((*ALLOWED, "+lag.perod=3"), r"lag\.perod: no parameter of EveryFew; did you mean period"),
        ((*ALLOWED, "+rollout.options.take_weights=1"), r"rollout\.options\.take_weights: .*did you mean takes_we"),
        ((*ALLOWED, "rollout._target_=elsewhere.policy.EveryFew"), "derived from harness.rollout.base.BaseEngine"),
        ((*ALLOWED, "lag._target_=elsewhere.engine.PlainEngine"), r"derived from harness\.lag\.policy\.Staleness"),
        ((*ALLOWED, "rollout.inflight=recompute"), "a version per batch is exact only with drain"),
        ((*FREE, "driver=overlapped", "rollout.inflight=recompute"), "only rollout=vllm can"),
        ((*FREE, "driver=ray", "rollout.inflight=keep_kv", "dry_run=true"), "only rollout=vllm can"),
        ((*FREE, "driver=serial"), "nothing runs free"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        configured(tmp_path, *overrides)


@pytest.mark.parametrize(("dtype", "given", "tolerance"), [
    ("float32", None, 1e-3), ("bfloat16", None, 0.1), ("bfloat16", 0.5, 0.5)])  # fmt: skip
def test_the_tolerance_of_the_probe_is_that_of_the_compute_type(dtype: str, given: Any, tolerance: float) -> None:
    rollout = RolloutConfig(probe_tolerance=given, max_new_tokens=24)
    config = Config(model=ModelConfig(path="harness/assets/carry", dtype=dtype), rollout=rollout)
    engine = PlainEngine(config, load_model(config.model, "cpu"))
    assert engine.probe_tolerance == tolerance
    engine.probe()
