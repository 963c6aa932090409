"""Runs of one MLflow experiment: found by a folder's note or their tags, made, given params, status and artifacts."""

from __future__ import annotations

import posixpath
import re
import socket
import time
from pathlib import Path
from typing import Any

from harness.tracking.notes import read_note, write_note
from harness.tracking.store import connect

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


class TrackedRuns:
    """The runs of an experiment, made where it is missing. Every method may raise whatever the store raises.

    uri: of the store. experiment: its name.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.client, self.experiment = connect(uri, experiment)

    def find(self, folder: Path, tags: dict[str, str]) -> str | None:
        """The id of a folder's run: the one its note names, else the one with these tags; None where there is none."""
        from mlflow.exceptions import MlflowException

        note = read_note(folder, self.uri)
        if note:
            try:
                run = self.client.get_run(note["run_id"])
                here = run.info.experiment_id == self.experiment and run.info.lifecycle_stage == "active"
                if here and run.data.tags.get("lagrange.folder") == str(folder):
                    return str(run.info.run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        query = " and ".join(f"tags.`{name}` = '{_quoted(value)}'" for name, value in tags.items())
        matches = self.client.search_runs([self.experiment], query, max_results=1)
        return str(matches[0].info.run_id) if matches else None

    def create(self, name: str, tags: dict[str, Any], started: float) -> str:
        """A new run. started: seconds since 1970. Returns its id."""
        all_tags = {k: str(v)[:LONGEST_TAG] for k, v in tags.items()} | {"lagrange.host": this_host()}
        run = self.client.create_run(self.experiment, int(1000 * started), all_tags, name)
        return str(run.info.run_id)

    def log_params(self, run_id: str, named: dict[str, str]) -> None:
        """Params that the run does not have yet: MLflow changes none."""
        from mlflow.entities import Param

        there = self.client.get_run(run_id).data.params
        params = [Param(name, value) for name, value in named.items() if name not in there]
        for start in range(0, len(params), PARAMS_A_CALL):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_A_CALL])

    def set_status(self, run_id: str, status: str, manifest: dict[str, Any]) -> None:
        """How a folder stands. status: of the folder. manifest: its error, hash and end, as far as they are known."""
        from mlflow.entities import RunTag

        facts = {"lagrange.status": status, "lagrange.error": manifest.get("error") or ""}
        facts["lagrange.final_weights_sha256"] = manifest.get("final_weights_sha256") or ""
        tags = [RunTag(name, str(value)[:LONGEST_TAG]) for name, value in facts.items()]
        self.client.log_batch(run_id, tags=tags)
        if status in ("running", "waiting"):
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, STATUS[status], int(1000 * (manifest.get("finished") or time.time())))

    def last_step(self, run_id: str, metric: str) -> int:
        """The newest update that a metric has, -1 for none."""
        return max((m.step for m in self.client.get_metric_history(run_id, metric)), default=-1)

    def upload(self, run_id: str, folder: Path, files: list[Path]) -> None:
        """Files that are there and have changed since they were sent."""
        note = read_note(folder, self.uri)
        sent: dict[str, list[int]] = note.get("artifacts", {}) if note.get("run_id") == run_id else {}
        for path in files:
            if not path.is_file() or not path.stat().st_size:
                continue
            name, stamp = str(path.relative_to(folder)), [path.stat().st_size, path.stat().st_mtime_ns]
            if sent.get(name) != stamp:
                below = posixpath.dirname(name)
                self.client.log_artifact(run_id, str(path), below or None)
                sent[name] = stamp
        write_note(folder, self.uri, run_id, artifacts=sent)


def _quoted(value: str) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")


def this_host() -> str:
    """The name of this machine, as a tag says it."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())
