"""Run folders → MLflow, one way: the folder is the record of truth, MLflow a window onto it.

A sweep is a parent run, a cell its child. Everything written here can be written again without harm: a run
is found by the id in the folder's tracking.json, else by its tags; rows already there are not sent twice.
This is the only file that imports mlflow, and no process that trains imports this file.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import posixpath
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.records.files import read_json, write_json
from harness.records.state import ARTIFACTS, MANIFEST, SWEEP, status_of

TRACKING = "tracking.json"
BATCH = 1000  # metrics a call, MLflow's limit
PARAMS_A_CALL = 100
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "waiting": "SCHEDULED",
}
# No manifest.json and no sweep.json: a reader that looks for runs must not find copies among the artifacts.
CELL_ARTIFACTS = ("config.yaml", "eval.jsonl", "samples.jsonl", "schedule.jsonl", "error.txt")
SWEEP_ARTIFACTS = (".png", ".pdf", ".svg", ".csv", ".md", ".tex", ".html", ".txt")
NOT_PARAMS = ("runs_dir", "tracking", "dry_run", "retry_failed")


def default_uri(runs_dir: Path) -> str:
    """The sqlite database beside the runs."""
    return f"sqlite:///{runs_dir.resolve()}/mlflow.db"


def database_of(uri: str) -> Path | None:
    """The file of a sqlite uri, None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


@dataclass
class _Cell:
    """What is already in MLflow. last: newest mirrored update by stream · read: bytes already looked at."""

    run_id: str
    last: dict[str, int]
    read: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    status: str = ""
    parent: str | None = None


class Mirror:
    """One MLflow experiment. Every method may raise whatever the store raises; nothing is lost by trying again.

    every: updates between mirrored rows of metrics.jsonl (the last one is always mirrored).
    """

    def __init__(self, uri: str, experiment: str, every: int) -> None:
        _silence()
        import mlflow

        self.uri = uri
        self._every = every
        self._cells: dict[Path, _Cell] = {}
        with _one_at_a_time(database_of(uri)):
            _create_database(database_of(uri))
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            self._experiment = self._experiment_id(experiment)

    # Cells -------------------------------------------------------------------------------------------

    def cell(self, folder: Path, parent: str | None = None) -> str:
        """Brings the run of one folder up to date and returns its status; a waiting cell has no run yet."""
        folder = folder.resolve()
        status = status_of(folder)
        if status == "waiting":
            return status
        manifest = read_json(folder / MANIFEST)
        cell = self._cells.get(folder) or self._open_cell(folder, manifest)
        ended = status != "running"
        if ended and cell.status == status:
            return status
        if ended or len(manifest["resumed"]) != cell.resumed:
            cell.resumed, cell.read = len(manifest["resumed"]), {}  # the streams were rewound, or need a last look
        if parent is not None and parent != cell.parent:
            self._client.set_tag(cell.run_id, "mlflow.parentRunId", parent)
            cell.parent = parent
        self._send(cell, folder, "metrics.jsonl", self._update_metrics, manifest)
        self._send(cell, folder, "eval.jsonl", _evaluation_metrics, manifest)
        if status != cell.status:
            self._set_status(cell.run_id, status, manifest)
            self._upload(cell.run_id, folder, [folder / name for name in CELL_ARTIFACTS] + _dumps(folder))
            self._client.log_dict(cell.run_id, manifest, "run.json")
            self._note(folder, cell.run_id, STATUS[status])
            cell.status = status
        return status

    def _open_cell(self, folder: Path, manifest: dict[str, Any]) -> _Cell:
        identity = {"lagrange.folder": str(folder), "lagrange.config_sha256": manifest["config_sha256"]}
        run_id = self._find(folder, identity)
        if run_id is None:
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            facts = {name: manifest[name] for name in ("algorithm", "task", "staleness", "seed")}
            facts["lagrange.git"] = manifest["git"]["sha"]
            run_id = self._create(folder.name, identity | facts, manifest["started"])
            self._log_params(run_id, config)
            self._upload(run_id, folder, [folder / "config.yaml"])
        splits = {row["split"] for row, _ in _rows(folder / "eval.jsonl", 0)}
        evaluated = [self._last_step(run_id, f"{split}/sampled_accuracy") for split in splits]
        last = {"metrics.jsonl": self._last_step(run_id, "reward"), "eval.jsonl": min(evaluated, default=-1)}
        cell = self._cells[folder] = _Cell(run_id, last)
        return cell

    def _send(self, cell: _Cell, folder: Path, name: str, metrics_of: Any, manifest: dict[str, Any]) -> None:
        """The rows of a stream that are not in MLflow yet, whole rows in batches."""
        from mlflow.entities import Metric

        rows = [(row, end) for row, end in _rows(folder / name, cell.read.get(name, 0)) if "update" in row]
        last_row = rows[-1][0]["update"] if rows and manifest["status"] != "running" else None
        batch: list[Metric] = []
        for row, _ in rows:
            update = int(row["update"])
            if update > cell.last[name]:
                at = int(1000 * (manifest["started"] + float(row.get("time/elapsed_s") or 0)))
                new = [Metric(k, v, at, update) for k, v in metrics_of(row, update == last_row).items()]
                if len(batch) + len(new) > BATCH:
                    self._client.log_batch(cell.run_id, metrics=batch)
                    cell.last[name] = max(metric.step for metric in batch)
                    batch = []
                batch += new
        if batch:
            self._client.log_batch(cell.run_id, metrics=batch)
            cell.last[name] = max(metric.step for metric in batch)
        if rows:
            cell.read[name] = rows[-1][1]

    def _update_metrics(self, row: dict[str, Any], last: bool) -> dict[str, float]:
        due = last or row["update"] % self._every == 0
        return _finite_metrics({k: v for k, v in row.items() if k != "update"}) if due else {}

    # Sweeps ------------------------------------------------------------------------------------------

    def sweep(self, folder: Path) -> str:
        """The parent run of a sweep folder, made if it is not there; returns its id."""
        folder = folder.resolve()
        described = read_json(folder / SWEEP)
        identity = {"lagrange.folder": str(folder), "lagrange.sweep": described["name"]}
        run_id = self._find(folder, identity)
        if run_id is None:
            command = " ".join(str(word) for word in described["command"])
            about = {"lagrange.command": command, "lagrange.cells": str(len(described["cells"]))}
            run_id = self._create(described["name"], identity | about, described["time"])
            self._note(folder, run_id, "RUNNING")
        return run_id

    def close_sweep(self, folder: Path, run_id: str) -> None:
        """The sweep's own status, and whatever lies in its folder (figures, tables, report) as artifacts."""
        folder = folder.resolve()
        status = sweep_status(folder)
        self._upload(run_id, folder, [p for p in sorted(folder.rglob("*")) if p.suffix in SWEEP_ARTIFACTS])
        self._set_status(run_id, status, {"finished": time.time()})
        self._note(folder, run_id, STATUS[status])

    # Reaping -----------------------------------------------------------------------------------------

    def reap(self) -> int:
        """Ends every run that MLflow believes to be running and that nobody runs any more; returns how many."""
        query = f"attributes.status = 'RUNNING' and tags.lagrange.host = '{_host()}'"
        reaped = 0
        for run in self._client.search_runs([self._experiment], query, max_results=1000):
            folder = Path(run.data.tags.get("lagrange.folder", ""))
            status = sweep_status(folder) if (folder / SWEEP).is_file() else status_of(folder)
            if status != "running":
                manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
                ended = "interrupted" if status == "waiting" else status
                self._set_status(run.info.run_id, ended, manifest)
                reaped += 1
        return reaped

    # MLflow ------------------------------------------------------------------------------------------

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        database = database_of(self.uri)
        # Without a place MLflow would put artifacts into whatever folder the command was typed in.
        place = None if database is None else (database.resolve().parent / ARTIFACTS).as_uri()
        return str(self._client.create_experiment(name, artifact_location=place))

    def _find(self, folder: Path, tags: dict[str, str]) -> str | None:
        from mlflow.exceptions import MlflowException

        noted = _tracking(folder)
        if noted.get("uri") == self.uri:
            try:
                run = self._client.get_run(noted["run_id"])
                if run.data.tags.get("lagrange.folder") == str(folder):
                    return str(run.info.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        query = " and ".join(f"tags.`{name}` = '{_quoted(value)}'" for name, value in tags.items())
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, name: str, tags: dict[str, Any], started: float) -> str:
        all_tags = {k: str(v)[:LONGEST_TAG] for k, v in tags.items()} | {"lagrange.host": _host()}
        run = self._client.create_run(self._experiment, int(1000 * started), all_tags, name)
        return str(run.info.run_id)

    def _log_params(self, run_id: str, config: dict[str, Any]) -> None:
        from mlflow.entities import Param

        flat = _flat({key: value for key, value in config.items() if key not in NOT_PARAMS})
        params = [Param(k, v if len(v) <= LONGEST_PARAM else "long: see config.yaml") for k, v in flat.items()]
        for start in range(0, len(params), PARAMS_A_CALL):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_A_CALL])

    def _set_status(self, run_id: str, status: str, manifest: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        facts = {"lagrange.status": status, "lagrange.error": manifest.get("error") or ""}
        facts["lagrange.final_weights_sha256"] = manifest.get("final_weights_sha256") or ""
        tags = [RunTag(name, str(value)[:LONGEST_TAG]) for name, value in facts.items()]
        self._client.log_batch(run_id, tags=tags)
        if status in ("running", "waiting"):
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, STATUS[status], int(1000 * (manifest.get("finished") or time.time())))

    def _last_step(self, run_id: str, metric: str) -> int:
        return max((m.step for m in self._client.get_metric_history(run_id, metric)), default=-1)

    def _upload(self, run_id: str, folder: Path, files: list[Path]) -> None:
        """Files that are there and have changed since they were sent."""
        sent: dict[str, list[int]] = _tracking(folder).get("artifacts", {}) if self._noted(folder, run_id) else {}
        for path in files:
            if not path.is_file() or not path.stat().st_size:
                continue
            name, stamp = str(path.relative_to(folder)), [path.stat().st_size, path.stat().st_mtime_ns]
            if sent.get(name) != stamp:
                below = posixpath.dirname(name)
                self._client.log_artifact(run_id, str(path), below or None)
                sent[name] = stamp
        self._note(folder, run_id, None, sent)

    def _noted(self, folder: Path, run_id: str) -> bool:
        noted = _tracking(folder)
        return noted.get("uri") == self.uri and noted.get("run_id") == run_id

    def _note(self, folder: Path, run_id: str, status: str | None, artifacts: dict[str, Any] | None = None) -> None:
        """Remembers in the folder where its mirror image is."""
        before = _tracking(folder) if self._noted(folder, run_id) else {}
        now = before | {"uri": self.uri, "run_id": run_id}
        now |= {"status": status} if status else {}
        now |= {"artifacts": artifacts} if artifacts is not None else {}
        if now != before:
            write_json(folder / TRACKING, now)


def sweep_status(folder: Path) -> str:
    """running while a cell is, else finished, failed, or interrupted where cells are left."""
    cells = [status_of((folder / cell["folder"]).resolve()) for cell in read_json(folder / SWEEP)["cells"]]
    for status in ("running", "failed"):
        if status in cells:
            return status
    return "finished" if set(cells) == {"finished"} else "interrupted"


def warning(reason: str, runs: str) -> str:
    return f"tracking: the MLflow mirror is incomplete ({reason}); `python -m harness.sync {runs}` completes it"


def complete(folder: Path, uri: str) -> bool:
    """Whether tracking.json says that a finished folder is wholly mirrored at `uri`."""
    database = database_of(uri)
    noted = _tracking(folder)
    there = database is None or database.is_file()
    return there and noted.get("uri") == uri and noted.get("status") == "FINISHED"


def _tracking(folder: Path) -> dict[str, Any]:
    """tracking.json, or nothing where it is missing or damaged: it can always be found again by tags."""
    try:
        noted = read_json(folder / TRACKING)
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) and "run_id" in noted else {}


def _rows(path: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole rows from byte `start` on, each with the byte after it; a half-written last line is left for later."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row, end


def _evaluation_metrics(row: dict[str, Any], _last: bool) -> dict[str, float]:
    passed = row.get("pass_at_k") if isinstance(row.get("pass_at_k"), dict) else {}
    flat = {k: v for k, v in row.items() if k not in ("update", "split")}
    flat |= {f"pass_at_{k}": v for k, v in (passed or {}).items()}
    return _finite_metrics({f"{row.get('split')}/{k}": v for k, v in flat.items()})


def _finite_metrics(values: dict[str, Any]) -> dict[str, float]:
    """MLflow stores an infinite number as a huge one and refuses most punctuation in names."""
    metrics = {}
    for name, value in values.items():
        plain = re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:250]
        sane = posixpath.normpath(plain) == plain and not plain.startswith((".", "/"))
        if sane and isinstance(value, int | float) and math.isfinite(value):
            metrics[plain] = float(value)
    return metrics


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[re.sub(r"[^A-Za-z0-9_\-. /]", "_", f"{prefix}{key}")[:250]] = str(value)
    return flat


def _dumps(folder: Path) -> list[Path]:
    return sorted((folder / "refused").glob("*.json"))


def _quoted(value: str) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())


@contextmanager
def _one_at_a_time(database: Path | None) -> Iterator[None]:
    """Several processes that open a fresh sqlite database at once break each other's migration: one at a time."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / f".{database.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create_database(database: Path | None) -> None:
    """A new database is made beside and renamed: one whose migration was killed half-way never opens again."""
    if database is None or database.exists():
        return
    import mlflow

    partial = database.with_name(f".{database.name}.partial")
    partial.unlink(missing_ok=True)
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments(max_results=1)
    partial.rename(database)


def _silence() -> None:
    """MLflow's own news, telemetry and four minutes of retries: before it is imported."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
