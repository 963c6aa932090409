"""Run folders → MLflow, one way: the folder is the record of truth, MLflow a window onto it.

A sweep is a parent run, a cell its child. Everything written here can be written again without harm: a run
is found by the id in the folder's tracking.json, else by its tags; rows already there are not sent twice.
No process that trains imports this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.records import tail
from harness.records.files import read_json
from harness.records.layout import CONFIG, ERROR, EVAL, MANIFEST, METRICS, REFUSED, SAMPLES, SCHEDULE, SWEEP, TOKENS
from harness.records.limits import read_yaml
from harness.records.state import status_of, sweep_status
from harness.tracking import entries, saved_view, sweep_entries
from harness.tracking.notes import write_note
from harness.tracking.store import set_experiment_tags
from harness.tracking.tracked_runs import STATUS, TrackedRuns, this_host

BATCH = 1000  # metrics a call, MLflow's limit
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
        self._runs = TrackedRuns(uri, experiment)

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
            self._runs.client.set_tag(cell.run_id, "mlflow.parentRunId", parent)
            cell.parent = parent
        self._send(cell, folder, METRICS, self._update_metrics, manifest["started"], ended)
        self._send(cell, folder, EVAL, _evaluation_metrics, manifest["started"], ended)
        self._runs.upload(cell.run_id, folder, [folder / EVAL])
        if status != cell.status:
            self._runs.set_status(cell.run_id, status, manifest)
            self._runs.upload(cell.run_id, folder, [folder / name for name in CELL_ARTIFACTS] + _dumps(folder))
            self._runs.client.log_dict(cell.run_id, manifest, "run.json")
            write_note(folder, self.uri, cell.run_id, status=STATUS[status])
            cell.status = status
        return status

    def _open_cell(self, folder: Path, manifest: dict[str, Any]) -> _Cell:
        identity = {"lagrange.folder": str(folder), "lagrange.config_sha256": manifest["config_sha256"]}
        run_id = self._runs.find(folder, identity)
        if run_id is None:
            config = read_yaml(folder / CONFIG)
            named = ("algorithm", "task", "staleness", "seed")
            facts = {name: manifest[name] for name in named if manifest[name] is not None}
            facts |= {"mlflow.source.name": "run.py", "mlflow.source.git.commit": manifest["git"]["sha"]}
            run_id = self._runs.create(self._names.get(folder, folder.name), identity | facts, manifest["started"])
            self._runs.log_params(run_id, entries.params(config, manifest.get("roles") or {}))
            self._runs.upload(run_id, folder, [folder / CONFIG])
        splits = {row["split"] for row, _ in tail.rows(folder / EVAL, 0)}
        evaluated = [self._runs.last_step(run_id, f"{split}/sampled_accuracy") for split in splits]
        last = {METRICS: self._runs.last_step(run_id, "reward"), EVAL: min(evaluated, default=-1)}
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
                    self._runs.client.log_batch(cell.run_id, metrics=batch)
                    cell.last[name] = max(metric.step for metric in batch)
                    batch = []
                batch += new
        if batch:
            self._runs.client.log_batch(cell.run_id, metrics=batch)
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
        run_id = self._runs.find(folder, identity)
        if run_id is None:
            command = " ".join(str(word) for word in described["command"])
            about = {"lagrange.command": command, "lagrange.cells": str(len(described["cells"]))}
            run_id = self._runs.create(described["name"], identity | about, described["time"])
            self._runs.client.log_dict(run_id, described, "cells.json")
            write_note(folder, self.uri, run_id, status="RUNNING")
        return run_id

    def close_sweep(self, folder: Path, run_id: str) -> None:
        """Sends the sweep's own status, params and metrics, and its figures, tables and report as artifacts.

        folder: of the sweep. run_id: what `sweep` returned.
        """
        folder = folder.resolve()
        status, described = sweep_status(folder), read_json(folder / SWEEP)
        self._runs.upload(run_id, folder, [p for p in sorted(folder.rglob("*")) if p.name.endswith(SWEEP_ARTIFACTS)])
        self._runs.client.log_dict(run_id, described, "cells.json")
        metrics = sweep_entries.sweep_metrics(folder, described["cells"])
        self._runs.log_params(run_id, sweep_entries.sweep_params(folder, described["cells"]))
        self._log_sweep_metrics(run_id, metrics, _last_end(folder))
        self._save_views(folder, run_id, described, metrics)
        self._describe(run_id, folder)
        self._runs.set_status(run_id, status, {"finished": _last_end(folder)})
        write_note(folder, self.uri, run_id, status=STATUS[status])

    def _log_sweep_metrics(self, run_id: str, metrics: dict[str, float], at: float) -> None:
        from mlflow.entities import Metric

        step, at_ms = int(metrics["cells_finished"]), int(1000 * at)
        self._runs.client.log_batch(run_id, metrics=[Metric(k, v, at_ms, step) for k, v in metrics.items()])

    def _save_views(self, folder: Path, run_id: str, described: dict[str, Any], metrics: dict[str, float]) -> None:
        """A view of this sweep's cells, and the one of all cells with this sweep's keys as columns."""
        swept = list(sweep_entries.swept_params(described["cells"]))
        shown: dict[str, Any] = {
            "swept": swept,
            "accuracy": sweep_entries.accuracy_of(metrics),
            "names": list(self._names.values()),
        }
        of_sweep = f"tags.`mlflow.parentRunId` = '{run_id}'"
        views = {
            saved_view.tag_of(folder.name): saved_view.saved_view(f"Sweep {described['name']}", of_sweep, **shown),
            saved_view.ALL_CELLS: saved_view.saved_view(saved_view.TITLE, **shown),
        }
        set_experiment_tags(self._runs.client, self._runs.experiment, views)

    def _describe(self, run_id: str, folder: Path) -> None:
        """The report's link and the summary on the sweep's page, unless somebody wrote there."""
        written = self._runs.client.get_run(run_id).data.tags.get("mlflow.note.content", "")
        text = sweep_entries.description(folder, self._runs.experiment, run_id)
        if text and (not written or written.startswith(sweep_entries.STARTS)):
            self._runs.client.set_tag(run_id, "mlflow.note.content", text)

    # Runs that nobody runs any more ------------------------------------------------------------------

    def end_dead_runs(self) -> int:
        """Ends every run of this machine that MLflow believes to be running and that nobody runs any more.

        Returns how many.
        """
        query = f"attributes.status = 'RUNNING' and tags.lagrange.host = '{this_host()}'"
        ended_now = 0
        for run in self._runs.client.search_runs([self._runs.experiment], query, max_results=1000):
            folder = Path(run.data.tags.get("lagrange.folder", ""))
            status = sweep_status(folder) if (folder / SWEEP).is_file() else status_of(folder)
            if status != "running":
                manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
                ended = "interrupted" if status == "waiting" else status
                self._runs.set_status(run.info.run_id, ended, manifest)
                ended_now += 1
        return ended_now


def _last_end(sweep: Path) -> float:
    """When the last cell that has begun ended, or stopped short; 0 if none began."""
    begun = [(sweep / cell["folder"] / MANIFEST).resolve() for cell in read_json(sweep / SWEEP)["cells"]]
    return max((read_json(path).get("finished") or 0.0 for path in begun if path.is_file()), default=0.0)


def _evaluation_metrics(row: dict[str, Any], _last: bool) -> dict[str, float]:
    return entries.evaluation_metrics(row)


def _dumps(folder: Path) -> list[Path]:
    return sorted((folder / REFUSED).glob("*.json"))
