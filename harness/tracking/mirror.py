"""Run folders → MLflow, one way: the folder is the record of truth, MLflow a window onto it.

A sweep is a parent run, a cell its child. Everything written here can be written again without harm: a run
is found by the id in the folder's tracking.json, else by its tags; rows already there are not sent twice.
No process that trains imports this file.
"""

from __future__ import annotations

import posixpath
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.records import tail
from harness.records.files import read_json
from harness.records.layout import CONFIG, ERROR, EVAL, MANIFEST, METRICS, REFUSED, SAMPLES, SCHEDULE, SWEEP, TOKENS
from harness.records.limits import read_yaml
from harness.records.state import status_of, sweep_status
from harness.tracking import entries
from harness.tracking.notes import read_note, write_note
from harness.tracking.store import connect

BATCH = 1000  # metrics a call, MLflow's limit
PARAMS_A_CALL = 100
LONGEST_TAG = 5000
STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "damaged": "FAILED",
    "interrupted": "KILLED",
    "paused": "KILLED",
    "waiting": "SCHEDULED",
}
# With these, run.json and the metrics, `python -m analysis … mlflow:EXPERIMENT` makes its tables. No manifest.json and
# no sweep.json: a reader that looks for runs must not find copies among the artifacts.
CELL_ARTIFACTS = (CONFIG, EVAL, SAMPLES, TOKENS, SCHEDULE, ERROR)
Metrics = Callable[[dict[str, Any], bool], dict[str, float]]  # of a row, and whether it is the last
SWEEP_ARTIFACTS = (".png", ".pdf", ".svg", ".csv", ".md", ".tex", ".html", ".txt", "figures.json")


@dataclass
class _Cell:
    """What of a run folder is already in MLflow.

    last: newest mirrored update by stream. read: bytes already looked at by stream. resumed: times it was resumed.
    """

    run_id: str
    last: dict[str, int]
    read: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    status: str = ""
    parent: str | None = None


class Mirror:
    """One MLflow experiment. Every method may raise whatever the store raises; nothing is lost by trying again.

    uri: of the store. experiment: its name; made where it is missing.
    every: updates between mirrored rows of metrics.jsonl (the last one is always mirrored).
    """

    def __init__(self, uri: str, experiment: str, every: int) -> None:
        self.uri = uri
        self._every = every
        self._cells: dict[Path, _Cell] = {}
        self._names: dict[Path, str] = {}
        self._client, self._experiment = connect(uri, experiment)

    # Cells -------------------------------------------------------------------------------------------

    def cell(self, folder: Path, parent: str | None = None) -> str:
        """Brings MLflow's run of one folder up to date.

        folder: run folder, begun or not. parent: id of the sweep's run in MLflow.
        Returns the folder's status; a waiting one has no run in MLflow yet.
        """
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
        self._send(cell, folder, METRICS, self._update_metrics, manifest["started"], ended)
        self._send(cell, folder, EVAL, _evaluation_metrics, manifest["started"], ended)
        self._upload(cell.run_id, folder, [folder / EVAL])
        if status != cell.status:
            self._set_status(cell.run_id, status, manifest)
            self._upload(cell.run_id, folder, [folder / name for name in CELL_ARTIFACTS] + _dumps(folder))
            self._client.log_dict(cell.run_id, manifest, "run.json")
            write_note(folder, self.uri, cell.run_id, status=STATUS[status])
            cell.status = status
        return status

    def _open_cell(self, folder: Path, manifest: dict[str, Any]) -> _Cell:
        identity = {"lagrange.folder": str(folder), "lagrange.config_sha256": manifest["config_sha256"]}
        run_id = self._find(folder, identity)
        if run_id is None:
            config = read_yaml(folder / CONFIG)
            facts = {name: manifest[name] for name in ("algorithm", "task", "staleness", "seed")}
            facts |= {"mlflow.source.name": "run.py", "mlflow.source.git.commit": manifest["git"]["sha"]}
            run_id = self._create(self._names.get(folder, folder.name), identity | facts, manifest["started"])
            self._log_params(run_id, entries.params(config, manifest.get("roles") or {}))
            self._upload(run_id, folder, [folder / CONFIG])
        splits = {row["split"] for row, _ in tail.rows(folder / EVAL, 0)}
        evaluated = [self._last_step(run_id, f"{split}/sampled_accuracy") for split in splits]
        last = {METRICS: self._last_step(run_id, "reward"), EVAL: min(evaluated, default=-1)}
        cell = self._cells[folder] = _Cell(run_id, last)
        return cell

    def _send(self, cell: _Cell, folder: Path, name: str, metrics_of: Metrics, started: float, ended: bool) -> None:
        """The rows of a stream that are not in MLflow yet, whole rows in batches."""
        from mlflow.entities import Metric

        rows = [(row, end) for row, end in tail.rows(folder / name, cell.read.get(name, 0)) if "update" in row]
        last_row = rows[-1][0]["update"] if rows and ended else None
        batch: list[Metric] = []
        for row, _ in rows:
            update = int(row["update"])
            if update > cell.last[name]:
                at = int(1000 * (started + float(row.get("time/elapsed_s") or 0)))
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
        return entries.update_metrics(row) if due else {}

    # Sweeps ------------------------------------------------------------------------------------------

    def sweep(self, folder: Path) -> str:
        """The parent run of a sweep, made if it is not there. Call it before `cell`: it names the cells.

        folder: of the sweep. Returns the id of its run in MLflow.
        """
        folder = folder.resolve()
        described = read_json(folder / SWEEP)
        self._names |= entries.cell_names(folder, described["cells"])
        identity = {"lagrange.folder": str(folder), "lagrange.sweep": described["name"]}
        run_id = self._find(folder, identity)
        if run_id is None:
            command = " ".join(str(word) for word in described["command"])
            about = {"lagrange.command": command, "lagrange.cells": str(len(described["cells"]))}
            run_id = self._create(described["name"], identity | about, described["time"])
            self._client.log_dict(run_id, described, "cells.json")
            write_note(folder, self.uri, run_id, status="RUNNING")
        return run_id

    def close_sweep(self, folder: Path, run_id: str) -> None:
        """Sends the sweep's own status, and whatever lies in its folder (figures, tables, report) as artifacts.

        folder: of the sweep. run_id: what `sweep` returned.
        """
        folder = folder.resolve()
        status = sweep_status(folder)
        self._upload(run_id, folder, [p for p in sorted(folder.rglob("*")) if p.name.endswith(SWEEP_ARTIFACTS)])
        self._client.log_dict(run_id, read_json(folder / SWEEP), "cells.json")
        self._describe(run_id, folder / "tables" / "summary.md")
        self._set_status(run_id, status, {"finished": _last_end(folder)})
        write_note(folder, self.uri, run_id, status=STATUS[status])

    def _describe(self, run_id: str, table: Path) -> None:
        """The summary on the sweep's page, unless somebody wrote there."""
        written = self._client.get_run(run_id).data.tags.get("mlflow.note.content", "")
        if table.is_file() and (not written or written.startswith("|")):
            whole = table.read_text(encoding="utf-8")
            text = whole if len(whole) <= LONGEST_TAG else whole[:LONGEST_TAG].rpartition("\n")[0]
            self._client.set_tag(run_id, "mlflow.note.content", text)

    # Runs that nobody runs any more ------------------------------------------------------------------

    def end_dead_runs(self) -> int:
        """Ends every run of this machine that MLflow believes to be running and that nobody runs any more.

        Returns how many.
        """
        query = f"attributes.status = 'RUNNING' and tags.lagrange.host = '{_host()}'"
        ended_now = 0
        for run in self._client.search_runs([self._experiment], query, max_results=1000):
            folder = Path(run.data.tags.get("lagrange.folder", ""))
            status = sweep_status(folder) if (folder / SWEEP).is_file() else status_of(folder)
            if status != "running":
                manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
                ended = "interrupted" if status == "waiting" else status
                self._set_status(run.info.run_id, ended, manifest)
                ended_now += 1
        return ended_now

    # MLflow ------------------------------------------------------------------------------------------

    def _find(self, folder: Path, tags: dict[str, str]) -> str | None:
        from mlflow.exceptions import MlflowException

        note = read_note(folder, self.uri)
        if note:
            try:
                run = self._client.get_run(note["run_id"])
                here = run.info.experiment_id == self._experiment and run.info.lifecycle_stage == "active"
                if here and run.data.tags.get("lagrange.folder") == str(folder):
                    return str(run.info.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        query = " and ".join(f"tags.`{name}` = '{_quoted(value)}'" for name, value in tags.items())
        matches = self._client.search_runs([self._experiment], query, max_results=1)
        return str(matches[0].info.run_id) if matches else None

    def _create(self, name: str, tags: dict[str, Any], started: float) -> str:
        all_tags = {k: str(v)[:LONGEST_TAG] for k, v in tags.items()} | {"lagrange.host": _host()}
        run = self._client.create_run(self._experiment, int(1000 * started), all_tags, name)
        return str(run.info.run_id)

    def _log_params(self, run_id: str, named: dict[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in named.items()]
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
        note = read_note(folder, self.uri)
        sent: dict[str, list[int]] = note.get("artifacts", {}) if note.get("run_id") == run_id else {}
        for path in files:
            if not path.is_file() or not path.stat().st_size:
                continue
            name, stamp = str(path.relative_to(folder)), [path.stat().st_size, path.stat().st_mtime_ns]
            if sent.get(name) != stamp:
                below = posixpath.dirname(name)
                self._client.log_artifact(run_id, str(path), below or None)
                sent[name] = stamp
        write_note(folder, self.uri, run_id, artifacts=sent)


def _last_end(sweep: Path) -> float:
    """When the last cell that has begun ended, or stopped short; 0 if none began."""
    begun = [(sweep / cell["folder"] / MANIFEST).resolve() for cell in read_json(sweep / SWEEP)["cells"]]
    return max((read_json(path).get("finished") or 0.0 for path in begun if path.is_file()), default=0.0)


def _evaluation_metrics(row: dict[str, Any], _last: bool) -> dict[str, float]:
    return entries.evaluation_metrics(row)


def _dumps(folder: Path) -> list[Path]:
    return sorted((folder / REFUSED).glob("*.json"))


def _quoted(value: str) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
