"""A run that starts from another's checkpoint: with nothing changed it is that run."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from short_runs import Ran, configured

from harness.command.cell import run_cell
from harness.command.forked import inherit
from harness.errors import UserError
from harness.records.secrets import recorded
from tests.conftest import ROOT, read_rows

LENGTH = ("updates=24", "eval.every=8")


def forked(folder: Path, *overrides: str) -> Ran:
    config = configured(folder, *LENGTH, *overrides)
    return Ran(run_cell(config), config.folder)


@pytest.fixture(scope="module", params=["8", "uniform:0:8", "partial:8"])
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("parent")
    return forked(folder, f"staleness={request.param}", "checkpoint_every=8", "record.keep_checkpoints=all",
                  "learner.lr=3e-4")  # fmt: skip


def test_with_nothing_changed_it_ends_as_its_parent(parent: Ran, tmp_path: Path) -> None:
    same = forked(tmp_path, f"fork={parent.folder}@8")
    assert same.sha256 == parent.sha256
    rows, before = (read_rows(ran.folder / "metrics.jsonl") for ran in (same, parent))
    assert [row["loss"] for row in rows] == [row["loss"] for row in before[8:]] and rows[0]["update"] == 9


def test_a_change_counts_from_the_fork_on(parent: Ran, tmp_path: Path) -> None:
    fresh = forked(tmp_path, f"fork={parent.folder}@8", "staleness=0", "algo=grpo")
    rows = read_rows(fresh.folder / "metrics.jsonl")
    assert {int(age) for row in rows for age in row["staleness_hist"]} == {0, 1, 2, 3}
    assert fresh.manifest["algorithm"] == "grpo" and fresh.sha256 != parent.sha256
    for stop in ("stop_at=16", "stop_at=null"):
        older = forked(tmp_path / "older", f"fork={parent.folder}@8", "staleness=uniform:8:8", stop)
    whole = forked(tmp_path / "whole", f"fork={parent.folder}@8", "staleness=uniform:8:8")
    assert older.sha256 == whole.sha256
    for row in read_rows(
        whole.folder / "metrics.jsonl"
    ):  # as at the beginning of a run: nothing is older than the fork
        age = min(row["version"] // 4 * 4 - 8, 8) + row["version"] % 4
        assert list(row["staleness_hist"]) == [str(age)]


def test_another_model_is_refused_and_one_that_has_moved_is_not(parent: Ran, tmp_path: Path) -> None:
    fork = f"fork={parent.folder}@8"
    with pytest.raises(UserError, match="another model than the run's that is forked"):
        configured(tmp_path, *LENGTH, fork, "model=carry_long")
    shutil.copytree(ROOT / "harness/assets/carry", tmp_path / "moved")
    moved = configured(tmp_path, *LENGTH, fork, f"model.path={tmp_path / 'moved'}")
    assert moved.model.path == str(tmp_path / "moved")


def test_a_fork_of_a_fork_that_began_anew_carries_on_with_its_queue(parent: Ran, tmp_path: Path) -> None:
    anew = (f"fork={parent.folder}@8", "staleness=uniform:8:8", "checkpoint_every=8", "record.keep_checkpoints=all")
    first = forked(tmp_path, *anew)
    assert forked(tmp_path, f"fork={first.folder}@16").sha256 == first.sha256


def test_a_fork_goes_on_beyond_the_end_of_its_parent(parent: Ran, tmp_path: Path) -> None:
    longer = forked(tmp_path, "updates=32", f"staleness={parent.manifest['staleness']}", "learner.lr=3e-4")
    assert forked(tmp_path, f"fork={parent.folder}@16", "updates=32").sha256 == longer.sha256
    last = forked(tmp_path, f"fork={parent.folder}@24", "updates=32")  # the parent had sampled nothing for it
    rows = read_rows(last.folder / "metrics.jsonl")
    assert [row["update"] for row in rows] == list(range(25, 33))
    assert max(int(age) for row in rows for age in row["staleness_hist"]) == 7  # nothing older than the weights at 24


def test_what_the_environment_said_is_asked_of_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints" / "000008").mkdir(parents=True)
    (tmp_path / "checkpoints" / "000008" / "checkpoint.json").write_text('{"config_sha256": "0", "files": {}}')
    (tmp_path / "config.yaml").write_text("task:\n  path: ${oc.env:LAGRANGE_TEST_DATA}/x.jsonl\nseed: 3\n")
    config = replace(configured(tmp_path), fork=f"{tmp_path}@8")
    with pytest.raises(UserError, match="LAGRANGE_TEST_DATA"):
        inherit(config, [])
    monkeypatch.setenv("LAGRANGE_TEST_DATA", "/data")
    taken = inherit(config, [])
    assert taken.task["path"] == "/data/x.jsonl" and taken.seed == 3
    assert recorded(taken)["task"]["path"] == "${oc.env:LAGRANGE_TEST_DATA}/x.jsonl"
    for text in ("seed: many", "learner: 3", "task: [1]", "choices: x", "seed: 2020-01-01", "learner: {lr: [1]}"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="its configuration cannot be taken over"):
            inherit(config, [])


@pytest.mark.parametrize("parent", ["8"], indirect=True)
def test_a_fork_is_of_a_run_and_not_of_a_path(parent: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(parent.folder)
    shutil.copytree(parent.folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    typed = (parent.folder, os.path.relpath(parent.folder), "link", "./moved/", "link/../" + parent.folder.name)
    assert len({configured(tmp_path, *LENGTH, f"fork={path}@8").folder for path in typed}) == 1
    other = configured(tmp_path, *LENGTH, f"fork={parent.folder}@16")
    assert other.folder != configured(tmp_path, *LENGTH, "fork=link@8").folder


@pytest.mark.parametrize("parent", ["8"], indirect=True)
def test_a_fork_does_not_carry_on_from_another_checkpoint(parent: Ran, tmp_path: Path) -> None:
    shutil.copytree(parent.folder, tmp_path / "parent")
    typed = f"fork={tmp_path / 'parent'}@8"
    assert run_cell(configured(tmp_path, *LENGTH, typed, "stop_at=12")) == "paused"
    shutil.rmtree(tmp_path / "parent" / "checkpoints" / "000008")
    shutil.copytree(parent.folder / "checkpoints" / "000016", tmp_path / "parent" / "checkpoints" / "000008")
    with pytest.raises(UserError, match="parent checkpoint has changed since this run began"):
        configured(tmp_path, *LENGTH, typed)


def test_what_cannot_be_forked_is_refused(parent: Ran, tmp_path: Path) -> None:
    for overrides, message in (
        ((f"fork={parent.folder}@12",), "there are 8, 16, 24"),
        ((f"fork={parent.folder}",), "expected RUN_FOLDER@UPDATE"),
        (("fork=nowhere@8",), "no checkpoints there"),
        ((f"fork={parent.folder}@24",), "an update before updates=24"),
        ((f"fork={parent.folder}@8", "experiment=carry_long"), "type the keys that change"),
    ):
        with pytest.raises(UserError, match=message):
            configured(tmp_path, *LENGTH, *overrides)
