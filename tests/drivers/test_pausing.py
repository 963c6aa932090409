"""A run paused at `stop_at` carries on to the bits and rows of one that was not; which checkpoints stay."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from short_runs import SHORT, Run, configured

from harness.errors import UserError
from harness.records.state import status_of
from tests.conftest import manifest, only_run, read_rows, without_clock

LENGTH = ("updates=24", "eval.every=12", "checkpoint_every=24")
RECORDS = ("metrics.jsonl", "eval.jsonl", "samples.jsonl")


def records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: without_clock(read_rows(folder / name)) for name in RECORDS}


@pytest.mark.parametrize("driver", ["serial", "overlapped"])
def test_a_paused_run_carries_on_to_the_same_bits_and_rows(run: Run, driver: str) -> None:
    run_is = (*LENGTH, "staleness=8", "rollout.chunks=2", f"driver={driver}")
    unpaused = run(*run_is, "repeat=1")
    paused = run(*run_is, "stop_at=8")
    assert paused.outcome == "paused" and status_of(paused.folder) == "paused"
    assert paused.manifest["final_weights_sha256"] is None
    assert [row["update"] for row in read_rows(paused.folder / "metrics.jsonl")] == list(range(1, 9))
    assert run(*run_is, "stop_at=8").outcome == "paused"  # again, and nothing happens
    assert len(read_rows(paused.folder / "metrics.jsonl")) == 8
    assert run(*run_is, "stop_at=16").outcome == "paused"
    carried_on = run(*run_is)
    assert carried_on.folder == paused.folder and carried_on.sha256 == unpaused.sha256
    assert records(carried_on.folder) == records(unpaused.folder)
    assert carried_on.manifest["updates"] == 24 and len(carried_on.manifest["resumed"]) == 3


def test_stopping_at_or_behind_the_end_is_finishing(run: Run) -> None:
    assert run("updates=8", "eval.every=8", "stop_at=8").outcome == "finished"


def test_a_pause_is_no_failure_of_the_command(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = command(*SHORT, "updates=8", "eval.every=8", "stop_at=4")
    assert done.returncode == 0, done.stderr
    assert "paused" in done.stdout
    assert manifest(only_run(tmp_path))["status"] == "paused"


@pytest.mark.parametrize(("keep", "kept"), [("2", [12, 16]), ("all", [4, 8, 12, 16]), ("[6,10]", [6, 10, 12, 16])])
def test_keep_checkpoints_keeps_and_saves_what_it_lists(run: Run, keep: str, kept: list[int]) -> None:
    given = ("updates=16", "eval.every=16", "checkpoint_every=4", "updates_per_step=2")
    ended = run(*given, f"record.keep_checkpoints={keep}")
    assert ended.sha256
    assert sorted(int(path.name) for path in (ended.folder / "checkpoints").iterdir()) == kept
    for path in (ended.folder / "checkpoints").iterdir():
        assert json.loads((path / "checkpoint.json").read_text())["update"] == int(path.name)


def test_a_listed_update_that_ends_no_step_is_refused(tmp_path: Path) -> None:
    for update in (6, 20):
        with pytest.raises(UserError, match=f"update {update} ends no step .* multiples of updates_per_step=4"):
            configured(tmp_path, f"record.keep_checkpoints=[4,{update}]")


def test_a_checkpoint_of_forgotten_rows_is_written_anew(run: Run) -> None:
    """Rows lost, so the run starts over: the checkpoint at its old place belongs to rows that are no more."""
    run_is = (*LENGTH, "staleness=4")
    folder = run(*run_is, "stop_at=8").folder
    before = json.loads((folder / "checkpoints/000008/checkpoint.json").read_text())["counters"]["records"]["streams"]
    rows = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(rows[:-1]))
    assert run(*run_is, "stop_at=8").outcome == "paused"
    now = json.loads((folder / "checkpoints/000008/checkpoint.json").read_text())["counters"]["records"]["streams"]
    assert now != before
    first = (folder / "metrics.jsonl").read_bytes()
    assert run(*run_is).outcome == "finished"
    assert (folder / "metrics.jsonl").read_bytes().startswith(first)
