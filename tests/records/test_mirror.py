"""The MLflow mirror: complete, idempotent, never in the way of the runs."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.tracking import entries, sync
from harness.tracking.mirror import Mirror
from harness.tracking.notes import is_complete
from harness.tracking.store import default_uri, store_uri
from tests.conftest import LIMIT_S, SMALL, manifest, only_run
from tests.records.folders import add_evaluation, add_rows, make_run, make_sweep

ROOT = Path(__file__).resolve().parents[2]


def contents(uri: str) -> dict[str, dict[str, object]]:
    """Every run by name: status, steps of a metric, parent, artifacts."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    runs = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    return {
        run.info.run_name: {
            "id": run.info.run_id,
            "status": run.info.status,
            "steps": [m.step for m in client.get_metric_history(run.info.run_id, "reward")],
            "evaluated": [m.step for m in client.get_metric_history(run.info.run_id, "validation/sampled_accuracy")],
            "parent": run.data.tags.get("mlflow.parentRunId"),
            "artifacts": sorted(a.path for a in client.list_artifacts(run.info.run_id)),
            "params": run.data.params,
            "error": run.data.tags.get("lagrange.error"),
            "ended": run.info.end_time,
        }
        for run in runs
    }


def mlflow_client(runs: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(default_uri(runs))


@pytest.fixture
def runs(tmp_path: Path, database: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    return folder


def test_sync_mirrors_a_sweep_and_a_second_time_changes_nothing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [make_run(runs, "a"), make_run(runs, "b", status="failed", error="non-finite: loss")]
    sweep = make_sweep(runs, "lags", cells)
    assert sync.main([str(runs)]) == 0
    first = contents(default_uri(runs))
    assert set(first) == {"a", "b", "lags"}
    assert first["a"]["steps"] == [10, 20, 25]  # every tenth update, and the last
    assert first["a"]["evaluated"] == [0, 25]
    assert first["a"]["parent"] == first["b"]["parent"] == first["lags"]["id"]
    assert (first["a"]["status"], first["b"]["status"], first["lags"]["status"]) == ("FINISHED", "FAILED", "FAILED")
    assert first["b"]["error"] == "non-finite: loss"
    assert first["lags"]["artifacts"] == ["cells.json", "figure.png"]
    assert {"config.yaml", "samples.jsonl", "run.json"} <= set(first["a"]["artifacts"])
    assert first["a"]["params"]["long"] == "long: see config.yaml"
    assert is_complete(cells[0], default_uri(runs))
    assert sync.main([str(runs)]) == 0
    assert contents(default_uri(runs)) == first
    for note in [*(cell / "tracking.json" for cell in cells), sweep / "tracking.json"]:
        note.unlink()  # found again by their tags
    assert sync.main([str(runs)]) == 0
    assert contents(default_uri(runs)) == first


def test_a_sweep_s_folder_is_enough_to_mirror_its_cells_into_another_experiment(runs: Path) -> None:
    cell, alone = make_run(runs, "a"), make_run(runs, "b")
    sweep = make_sweep(runs, "lags", [cell])
    assert sync.main([str(runs)]) == 0
    assert sync.main([str(sweep), "--experiment", "lags only"]) == 0
    client = mlflow_client(runs)
    held = client.search_runs([client.get_experiment_by_name("lags only").experiment_id])
    assert {run.info.run_name for run in held} == {"a", "lags"}
    assert is_complete(cell, default_uri(runs)) and is_complete(alone, default_uri(runs))


def test_after_a_sweep_its_run_holds_figures_tables_and_report(
    runs: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    small = [each for each in SMALL if not each.startswith("tracking")]
    done = command("-m", "algo=grpo,m2po", *small, f"runs_dir={runs}")
    assert done.returncode == 0, done.stderr
    assert "tracking:" not in done.stderr  # which ended only when the mirror did
    client = mlflow_client(runs)
    held = client.search_runs([client.get_experiment_by_name("lagrange").experiment_id])
    (sweep,) = [run for run in held if "lagrange.sweep" in run.data.tags]
    artifacts = {file.path: {below.path for below in client.list_artifacts(sweep.info.run_id, file.path)}
                 for file in client.list_artifacts(sweep.info.run_id)}  # fmt: skip
    assert {"figures/accuracy_vs_updates.png", "figures/figures.json"} <= artifacts["figures"]
    assert {"tables/summary.md", "tables/table1.tex"} <= artifacts["tables"]
    assert artifacts["report"] == {"report/index.html"}
    note = sweep.data.tags["mlflow.note.content"]
    report = f"#/experiments/{sweep.info.experiment_id}/runs/{sweep.info.run_id}/artifacts/report/index.html"
    assert note.startswith(f"[Report]({report})") and "| algorithm" in note
    assert sweep.data.params.items() >= {"algorithm": "grpo, m2po", "updates": "16", "staleness": "0"}.items()
    assert sweep.data.metrics["cells_finished"] == 2 and 0 <= sweep.data.metrics["mean/test/sampled_accuracy"] <= 1
    cells = {run.info.run_name: run.data for run in held if run is not sweep}
    assert set(cells) == {"grpo-s0-seed1", "m2po-s0-seed1"}
    assert cells["m2po-s0-seed1"].params.items() >= {"algorithm": "m2po", "algo.m2_threshold": "0.04"}.items()
    assert cells["m2po-s0-seed1"].tags["mlflow.parentRunId"] == sweep.info.run_id


def test_what_somebody_wrote_on_a_sweep_s_page_stays(runs: Path) -> None:
    sweep = make_sweep(runs, "lags", [make_run(runs, "a")])
    (sweep / "tables").mkdir()
    (sweep / "tables/summary.md").write_text("| algorithm |\n" + "| m2po |\n" * 1000)
    assert sync.main([str(runs)]) == 0
    client = mlflow_client(runs)
    run_id = str(contents(default_uri(runs))["lags"]["id"])
    note = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert note.startswith("| algorithm |") and note.endswith("| m2po |")  # whole lines
    client.set_tag(run_id, "mlflow.note.content", "the one that counts")
    assert sync.main([str(runs)]) == 0
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "the one that counts"


def test_an_experiment_that_was_there_gets_the_view_too(runs: Path) -> None:
    client = mlflow_client(runs)
    client.create_experiment("old", tags={"whose": "mine"})
    Mirror(default_uri(runs), "old", 10)
    tags = client.get_experiment_by_name("old").tags
    assert tags["whose"] == "mine"
    saved = json.loads(tags["mlflow.sharedViewState.lagrange"])
    assert json.loads(saved["state"])["selectedColumns"][:2] == [
        "metrics.`test/sampled_accuracy`",
        "params.`algorithm`",
    ]
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_views_and_kinds_that_somebody_chose_stay(runs: Path) -> None:
    make_sweep(runs, "lags", [make_run(runs, "a")])
    view = json.dumps({"name": "mine", "createdAt": 0, "updatedAt": 1_700_000_000_000, "state": "{}"})
    client = mlflow_client(runs)
    chosen = {"mlflow.sharedViewState.lagrange": view, "mlflow.experimentKind": "genai_development"}
    client.create_experiment("lagrange", tags=chosen)
    client.create_experiment("guessed", tags={"mlflow.experimentKind": "no_inferred_type"})
    Mirror(default_uri(runs), "guessed", 10)
    assert client.get_experiment_by_name("guessed").tags["mlflow.experimentKind"] == "custom_model_development"
    assert sync.main([str(runs)]) == 0
    tags = client.get_experiment_by_name("lagrange").tags
    assert chosen.items() <= tags.items() and "mlflow.sharedViewState.lagrange-lags" in tags


def test_a_sweep_s_run_says_what_was_swept_and_what_came_out(runs: Path) -> None:
    cells = [make_run(runs, "a"), make_run(runs, "b"), make_run(runs, "c", status="failed")]
    add_evaluation(cells[1], 26, accuracy=0.75)
    given = [
        ["algo=m2po", f"staleness={s}", "updates=25", "runs_dir=runs", "hydra/launcher=joblib"] for s in (0, 64, 64)
    ]
    make_sweep(runs, "lags", cells, given)
    assert sync.main([str(runs)]) == 0
    client = mlflow_client(runs)
    sweep = client.get_run(str(contents(default_uri(runs))["lags"]["id"]))
    assert sweep.data.params.items() >= {"algorithm": "m2po", "staleness": "0, 64", "updates": "25"}.items()
    assert not {"runs_dir", "hydra/launcher"} & set(sweep.data.params)
    counts = {"cells": 3, "cells_finished": 2, "cells_failed": 1}
    spread = {
        "mean/test/sampled_accuracy": 0.625,
        "lowest/test/sampled_accuracy": 0.5,
        "highest/test/sampled_accuracy": 0.75,
    }
    assert sweep.data.metrics.items() >= (counts | spread).items()


def test_cells_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    def cell(folder: str, sha: str, *overrides: str) -> dict[str, object]:
        return {"folder": f"../{folder}", "config_sha256": sha, "overrides": ["algo=m2po", "updates=8", *overrides]}

    cells = [
        cell("m2po-s64-seed1-0123456789", "0123456789abc", "algo.m2_threshold=0.01", "seed=1"),
        cell("m2po-s64-seed2-abcdef0123", "abcdef0123456", "algo.m2_threshold=0.04", "seed=2"),
        cell("m2po-s64-seed3-abcdef4567", "abcdef4567890", "seed=3"),
    ]
    names = ["m2po-s64-seed1 m2_threshold=0.01", "m2po-s64-seed2 m2_threshold=0.04", "m2po-s64-seed3"]
    assert list(entries.cell_names(tmp_path / "sweep", cells).values()) == names


def test_params_are_what_was_chosen_and_is_in_use() -> None:
    config = {
        "algo": {"_target_": "algorithms.grpo.GRPO", "epsilon_low": 0.2, "dual_clip": None},
        "rollout": {"_target_": "harness.rollout.torch_engine.TorchEngine", "vllm": {"enforce_eager": True}},
        "ray": {"actors": 1},
        "eval": {"suites": []},
        "driver": "serial",
        "choices": {"algo": "grpo", "rollout": "torch"},
        "runs_dir": "runs",
        "stop_at": 4,
    }
    roles = dict.fromkeys(("algo.epsilon_low", "rollout.vllm.enforce_eager"), "science") | {"runs_dir": "place"}
    roles |= {"driver": "driver", "ray.actors": "driver", "stop_at": "place"}
    chosen = {"algorithm": "grpo", "rollout": "torch", "algo.epsilon_low": "0.2", "driver": "serial"}
    assert entries.params(config, roles) == chosen
    assert entries.params(config | {"core": "serial"}, {}) == chosen | {"core": "serial"}  # a run of 0.1.0
    config |= {"driver": "ray", "choices": {"rollout": "vllm"}}
    assert entries.params(config, roles).items() >= {"ray.actors": "1", "rollout.vllm.enforce_eager": "True"}.items()


def test_a_resumed_run_carries_on_in_the_same_run(runs: Path) -> None:
    folder = make_run(runs, "a", status="interrupted", updates=10)
    mirror = Mirror(default_uri(runs), "lagrange", 10)
    assert mirror.cell(folder) == "interrupted"
    assert contents(default_uri(runs))["a"]["status"] == "KILLED"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "finished", "resumed": [{}]}))
    (folder / "metrics.jsonl").write_text("")  # rewound to nothing, and written again
    add_rows(folder, 1, 30)
    add_evaluation(folder, 30)
    assert mirror.cell(folder) == "finished"
    found = contents(default_uri(runs))["a"]
    assert (found["status"], found["steps"], found["evaluated"]) == ("FINISHED", [10, 20, 30], [0, 10, 30])


def test_a_killed_run_is_not_left_running(runs: Path) -> None:
    folder = make_run(runs, "a", status="running")
    mirror = Mirror(default_uri(runs), "lagrange", 10)
    mirror.cell(folder)  # nobody holds its lock: interrupted
    mirror._runs.client.update_run(mirror._cells[folder.resolve()].run_id, status="RUNNING")
    assert Mirror(default_uri(runs), "lagrange", 10).end_dead_runs() == 1
    assert contents(default_uri(runs))["a"]["status"] == "KILLED"


def test_hostile_rows_are_skipped(runs: Path) -> None:
    folder = make_run(runs, "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"update": 30, "../../x": 1, "a@b": 2, "reward": 1e999, "ok": 0.5}\nnot json\n[1]\n{"update": 40, "rew'
        )
    assert sync.main([str(runs)]) == 0
    assert contents(default_uri(runs))["a"]["steps"] == [10, 20]


def test_two_commands_on_a_fresh_database_both_succeed(runs: Path) -> None:
    for name in "abcd":
        make_run(runs, name)
    processes = [
        subprocess.Popen([sys.executable, "-m", "harness.tracking.sync", str(runs / "carry" / name)], cwd=ROOT)
        for name in "abcd"
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]
    assert set(contents(default_uri(runs))) == set("abcd")


def sync_live(runs: Path, uri: str, cells: list[Path], held_open_s: float) -> tuple[int, str, float]:
    """The mirror process as run.py starts it: exit code, standard error, seconds it took after the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.tracking.sync", "--live"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stderr is not None
    job = {"uri": uri, "experiment": "lagrange", "every": 10, "sweep": None, "cells": [str(c) for c in cells]}
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    time.sleep(held_open_s)
    process.stdin.close()
    started = time.monotonic()
    code = process.wait(LIMIT_S)
    return code, process.stderr.read(), time.monotonic() - started


def test_an_unreachable_server_is_said_once_and_sync_completes_it(runs: Path) -> None:
    folder = make_run(runs, "a")
    code, said, _ = sync_live(runs, "http://127.0.0.1:9", [folder], 1.0)
    assert code == 1
    assert said.count("\n") == 1 and "127.0.0.1" in said
    command = said.partition("once that is mended: ")[2]
    subprocess.run(command, shell=True, cwd=ROOT, check=True)
    assert contents(default_uri(runs))["a"]["steps"] == [10, 20, 25]


def test_a_deleted_run_is_made_anew(runs: Path) -> None:
    cell = make_run(runs, "a")
    make_sweep(runs, "lags", [cell])
    assert sync.main([str(runs)]) == 0
    before = contents(default_uri(runs))
    for name in ("a", "lags"):
        mlflow_client(runs).delete_run(before[name]["id"])
    assert sync.main([str(runs)]) == 0
    after = contents(default_uri(runs))
    assert {run["id"] for run in before.values()}.isdisjoint(run["id"] for run in after.values())
    assert after["a"]["parent"] == after["lags"]["id"]
    for name in ("a", "lags"):
        assert {k: v for k, v in after[name].items() if k not in ("id", "parent")} == {
            k: v for k, v in before[name].items() if k not in ("id", "parent")
        }


def test_a_deleted_experiment_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(runs, "a")
    assert sync.main([str(runs)]) == 0
    client = mlflow_client(runs)
    client.delete_experiment(client.get_experiment_by_name("lagrange").experiment_id)
    assert sync.main([str(runs)]) == 1
    assert "the experiment lagrange was deleted in MLflow; restore it" in capsys.readouterr().err
    assert sync.main([str(runs), "--experiment", "another"]) == 0


def test_the_store_of_the_environment_is_written_to_as_it_is_read_from(
    runs: Path, tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(database, tmp_path / "elsewhere.db")
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    make_run(runs, "a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    assert store_uri("", runs) == elsewhere and store_uri("http://host", runs) == "http://host"
    assert sync.main([str(runs)]) == 0
    assert set(contents(elsewhere)) == {"a"} and contents(default_uri(runs)) == {}


def test_a_recorded_address_needs_its_password_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="passwords are not recorded; give the whole address"):
        store_uri("http://***@host", runs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    assert store_uri("http://***@host", runs) == "http://me:secret@host"


def test_a_server_that_never_answers_holds_nobody_up(runs: Path) -> None:
    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(30)

        do_POST = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said = runs / "said.txt"
    arguments = [
        *("updates=4", "rollout.prompts_per_step=4", "rollout.group_size=2", "eval.every=4", "checkpoint_every=4"),
        *("task.validation_problems=4", "task.test_problems=4", f"runs_dir={runs}"),
        f"tracking.uri=http://127.0.0.1:{server.server_port}",
    ]
    try:
        with said.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), *arguments],
                stderr=errors,
                stdout=errors,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            assert process.wait(240) == 0
        ended = time.time()
        assert ended - manifest(only_run(runs))["finished"] < 20
        while "tracking:" not in said.read_text() and time.time() - ended < 120:
            time.sleep(0.5)
        assert said.read_text().count("tracking:") == 1
    finally:
        server.shutdown()


def test_a_locked_database_is_said_once_and_sync_completes_it(runs: Path) -> None:
    folder = make_run(runs, "a")
    uri = default_uri(runs)
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        code, said, _ = sync_live(runs, uri, [folder], 1.0)
    assert code == 1 and said.count("\n") == 1
    assert sync.main([str(runs)]) == 0
    assert contents(uri)["a"]["steps"] == [10, 20, 25]
