"""An MLflow experiment stands in for the folders it mirrors."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from analysis import __main__ as cli
from analysis import experiment, runs, tables, tabular, token_tables
from analysis.errors import AnalysisError
from harness.tracking import sync
from harness.tracking.store import default_uri

EVERY = 10
ENDED = {"started": 1.7e9, "finished": 1.7e9 + 60, "resumed": [], "error": None}


def write_folders(root: Path) -> None:
    """A sweep of four cells, one of which never began, and a failed run, an evaluation and a duplicate beside it."""
    cells = [("grpo", 1), ("grpo", 2), ("m2po", 1), ("m2po", 2)]
    (root / "sweeps/lags").mkdir(parents=True)
    described = []
    for algorithm, seed in cells:
        folder = root / f"carry/{algorithm}-s16-seed{seed}"
        if (algorithm, seed) != ("m2po", 2):
            synthetic.write_run(folder, algorithm, 16, seed, updates=25, tokens=seed == 1, manifest=ENDED)
        overrides = [f"algo={algorithm}", "staleness=16", f"seed={seed}"]
        described.append({"folder": f"../../carry/{folder.name}", "overrides": overrides, "config_sha256": ""})
    sweep = {"name": "lags", "command": ["-m"], "cells": described, "time": 1.7e9}
    (root / "sweeps/lags/sweep.json").write_text(json.dumps(sweep))
    failed = ENDED | {"error": "non-finite: loss"}
    synthetic.write_run(root / "carry/tis-s16-seed1", "tis", 16, updates=12, status="failed", manifest=failed)
    again = ENDED | json.loads((root / "carry/grpo-s16-seed1/manifest.json").read_text())
    synthetic.write_run(root / "carry/grpo-s16-seed1-ray", "grpo", 16, driver="ray", updates=25, manifest=again)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    """Run folders and, beside them, the database that mirrors them; with a run of somebody else's in it."""
    root = tmp_path_factory.mktemp("mirrored")
    shutil.copy(database, root / "mlflow.db")
    write_folders(root)
    mirror(root, default_uri(root))
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(root))
    client.create_run(client.get_experiment_by_name("study").experiment_id, run_name="theirs")
    return root


def mirror(root: Path, uri: str) -> None:
    assert sync.main([str(root), "--uri", uri, "--experiment", "study", "--every", str(EVERY)]) == 0


def load(root: Path) -> runs.Study:
    return runs.load(["mlflow:study"], tracking_uri=default_uri(root))


def assert_same(mirrored: runs.Study, folders: runs.Study) -> None:
    """Every table is that of the folders, `updates` at the updates that were mirrored."""
    told = folders.runs.drop(columns="folder").reset_index(drop=True)
    pd.testing.assert_frame_equal(mirrored.runs[told.columns].reset_index(drop=True), told)
    pd.testing.assert_frame_equal(plain(mirrored.evaluations), plain(folders.evaluations))
    last = folders.updates.groupby("run", observed=True)["update"].transform("max")
    logged = plain(folders.updates[(folders.updates["update"] % EVERY == 0) | (folders.updates["update"] == last)])
    assert len(logged) == 3 * len(folders.used)
    undefined = logged.columns.difference(mirrored.updates.columns)
    assert logged[undefined].isna().all(axis=None)  # in every row that was mirrored
    logged = logged.drop(columns=undefined)
    pd.testing.assert_frame_equal(plain(mirrored.updates)[logged.columns], logged)


def plain(rows: pd.DataFrame) -> pd.DataFrame:
    """`run` as text: as a category it knows of unused runs, too."""
    return rows.astype({"run": str}).reset_index(drop=True)


def test_frames_are_those_of_the_folders_at_the_mirrored_updates(root: Path) -> None:
    mirrored, folders = load(root), runs.load([root])
    theirs = mirrored.runs["run"] == "theirs"
    assert list(mirrored.runs.loc[theirs, "why_not"]) == ["foreign: not a run of this project (no tag lagrange.folder)"]
    assert_same(mirrored.keep(mirrored.runs[~theirs]), folders)
    assert list(mirrored.unused["run"]) == ["grpo-s16-seed1-ray", "theirs", "tis-s16-seed1"]
    assert set(mirrored.notes) == {
        "sweep lags: 1 of 4 cells not begun, or not mirrored",
        "mlflow:study: one update in 10 was mirrored (tracking.every); means of metrics are over those",
    }


def test_tables_and_tokens_are_those_of_the_folders(root: Path) -> None:
    mirrored, folders = load(root), runs.load([root])
    assert tabular.markdown(tables.summary(mirrored)) == tabular.markdown(tables.summary(folders))
    for reduced in (token_tables.by_ratio, token_tables.by_text):
        assert len(reduced(folders)) > 0
        pd.testing.assert_frame_equal(reduced(mirrored), reduced(folders))


def test_what_has_not_changed_is_not_fetched_again(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    root = tmp_path / "runs"
    write_folders(root)
    shutil.copy(database, root / "mlflow.db")
    mirror(root, default_uri(root))
    first = load(root)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_metric_history", lambda *_: pytest.fail("fetched again"))
        again = load(root)
    pd.testing.assert_frame_equal(again.updates, first.updates)
    manifest = root / "carry/tis-s16-seed1/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "finished", "error": None}))
    mirror(root, default_uri(root))
    assert set(load(root).used["algorithm"]) == {"grpo", "m2po", "tis"}


def test_an_image_that_is_not_whole_is_named_and_sync_completes_it(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(root))
    found = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    named = {run.info.run_name: Path(run.info.artifact_uri.removeprefix("file://")) for run in found}
    (named["m2po-s16-seed1"] / "run.json").unlink()
    (named["lags"] / "cells.json").unlink()
    study = load(root)
    why = dict(zip(study.unused["run"], study.unused["why_not"], strict=True))
    assert why["m2po-s16-seed1"] == "not wholly mirrored (no run.json); `python -m harness.sync RUNS` completes it"
    assert "sweep lags: not wholly mirrored (no cells.json); `python -m harness.sync RUNS` completes it" in study.notes
    mirror(root, default_uri(root))
    study = load(root)
    assert "m2po-s16-seed1" in set(study.used["run"])
    assert "sweep lags: 1 of 4 cells not begun, or not mirrored" in study.notes


@pytest.fixture
def server(tmp_path: Path, database: Path) -> str:
    """A real MLflow server, which keeps artifacts itself."""
    shutil.copy(database, tmp_path / "served.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/served.db"),
            *("--artifacts-destination", str(tmp_path / "kept"), "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1"),
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_a_server_gives_the_same_as_the_folders(server: str, tmp_path: Path) -> None:
    write_folders(tmp_path / "runs")
    mirror(tmp_path / "runs", server)
    mirrored = runs.load(["mlflow:study"], tracking_uri=server)
    assert_same(mirrored, runs.load([tmp_path / "runs"]))
    with pytest.raises(AnalysisError, match=r"no MLflow experiment named 'studdy'; nearest: study \(in http"):
        runs.load(["mlflow:studdy"], tracking_uri=server)


def test_the_store_is_taken_from_the_option_then_the_environment_then_the_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(root)
    assert cli.main(["table", "mlflow:study"]) == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert cli.main(["table", "mlflow:study"]) == 2
    assert cli.main(["table", "mlflow:study", "--tracking-uri", default_uri(root)]) == 0
    sides = ["compare", "mlflow:study", "--a", "algorithm=grpo", "--b", "algorithm=m2po"]
    capsys.readouterr()
    assert cli.main([*sides, "--tracking-uri", default_uri(root)]) == 0
    assert "one update in 10 was mirrored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "uri", "said"),
    [
        ("mlflow:studdy", None, "no MLflow experiment named 'studdy'; nearest: study (in sqlite"),
        ("mlflow:", None, "no MLflow experiment named ''; nearest: "),
        ("mlflow:study", "sqlite:///nowhere/mlflow.db", "no MLflow database nowhere/mlflow.db"),
        (
            "mlflow:study",
            "http://somebody:secret@127.0.0.1:9",
            "MLflow at http://127.0.0.1:9 does not answer (ConnectionError); name",
        ),
        ("mlflow:study", "sqlite:///{root}/carry/grpo-s16-seed1/config.yaml", "cannot be read"),
        ("mlflow:study", "ftp://127.0.0.1", "cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    root: Path, source: str, uri: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = uri.format(root=root) if uri else default_uri(root)
    assert cli.main(["table", source, "--tracking-uri", store]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and "secret" not in line


def test_a_cache_that_cannot_be_written_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LAGRANGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(AnalysisError, match="LAGRANGE_CACHE"):
        experiment.fetch("mlflow:study", default_uri(root))


def test_experiments_and_folders_can_be_mixed(root: Path, tmp_path: Path) -> None:
    synthetic.write_run(tmp_path / "mine", "gspo", 16, updates=25)
    both = runs.load(["mlflow:study", tmp_path], tracking_uri=default_uri(root))
    assert set(both.used["algorithm"]) == {"grpo", "m2po", "gspo"}
    assert len(both.updates) == 3 * 3 + 25
