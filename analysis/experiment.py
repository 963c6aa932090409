"""`mlflow:EXPERIMENT`: the runs of an MLflow experiment as run folders, so that all that reads folders reads them.

harness/tracking/mirror.py puts into MLflow the manifest (run.json), the configuration, evaluations, samples and tokens
as artifacts, and every `tracking.every`-th row of metrics.jsonl as metrics. They are fetched into
`$LAGRANGE_CACHE/mlflow`; a run that has not changed since is not fetched again. Nothing is written to MLflow.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import AnalysisError, first_line, unknown
from analysis.records import read_rows
from harness.records.layout import CONFIG, EVAL, MANIFEST, METRICS, SAMPLES, TOKENS, cache_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PREFIX = "mlflow:"
DEFAULT_URI = "sqlite:///runs/mlflow.db"  # where run.py puts it, and `make ui` looks
ELSEWHERE = "name another with --tracking-uri or MLFLOW_TRACKING_URI"
_FILES = {  # artifact → its name in a run folder
    "run.json": MANIFEST,
    **{name: name for name in (CONFIG, EVAL, SAMPLES, TOKENS)},
}
_NEEDED = ("run.json", CONFIG)
_LAYOUT = 1  # raise it when what is fetched changes


def fetch(source: str, uri: str | None = None) -> tuple[dict[str, Path | str], list[str]]:
    """Fetches the runs of an MLflow experiment as run folders into the cache.

    source: "mlflow:EXPERIMENT".
    uri: of the tracking store (default: $MLFLOW_TRACKING_URI, else runs/mlflow.db).
    Returns name of each run → its folder in the cache, or why it has none; and notes on cells that have not begun.
    Raises AnalysisError, in one line, when the store does not answer, there is no such experiment, or the cache cannot
    be written.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    shown = re.sub(r"//[^/@]*@", "//", uri)  # without a password
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and not database.is_file():
        raise AnalysisError(f"no MLflow database {database}; {ELSEWHERE}")
    cache = _writable(cache_folder() / "mlflow")
    _silence()
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return _fetch(source.removeprefix(PREFIX), uri, shown, cache)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if isinstance(error.__context__, RequestException):
            reason = type(error.__context__).__name__
            raise AnalysisError(f"MLflow at {shown} does not answer ({reason}); {ELSEWHERE}") from error
        raise AnalysisError(f"MLflow at {shown} cannot be read ({first_line(error)[:200]}); {ELSEWHERE}") from error


def _fetch(name: str, uri: str, shown: str, cache: Path) -> tuple[dict[str, Path | str], list[str]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = _runs(client, name, shown)
    sweeps = [run for run in runs if "lagrange.sweep" in run.data.tags]
    cells = _named([run for run in runs if "lagrange.sweep" not in run.data.tags])
    # a name of our making: what a server calls its runs must not reach a path
    entries = [cache / hashlib.sha256(f"{uri} {run.info.run_id}".encode()).hexdigest()[:32] for run in cells.values()]
    with ThreadPoolExecutor(8) as pool:
        folders = pool.map(partial(_fetch_run, client), cells.values(), entries)
        folder_of = dict(zip(cells, folders, strict=True))
    return folder_of, _not_begun(client, sweeps, [_folder(run) for run in cells.values()])


def _runs(client: MlflowClient, name: str, shown: str) -> list[Run]:
    experiment = client.get_experiment_by_name(name) if name else None
    if experiment is None or experiment.lifecycle_stage != "active":
        names = [each.name for each in client.search_experiments()]
        raise AnalysisError(f"{unknown('MLflow experiment', name, names)} (in {shown})")
    runs: list[Run] = []
    page = client.search_runs([experiment.experiment_id])
    while page.token:
        runs += page
        page = client.search_runs([experiment.experiment_id], page_token=page.token)
    return [*runs, *page]


def _folder(run: Run) -> str:
    """Where its run folder was when it was mirrored; "" for a run that is not ours."""
    folder = str(run.data.tags.get("lagrange.folder", ""))
    return folder if folder.startswith("/") else ""


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the names that their folders have below the folder above them all, in the order of the names."""
    above = posixpath.commonpath([posixpath.dirname(_folder(run)) for run in runs if _folder(run)] or ["/"])
    named: dict[str, Run] = {}
    for run in runs:
        name = posixpath.relpath(_folder(run), above) if _folder(run) else run.info.run_name
        named[f"{name} ({run.info.run_id[:8]})" if name in named else name] = run
    return dict(sorted(named.items()))


def _fetch_run(client: MlflowClient, run: Run, entry: Path) -> Path | str:
    """The run's image as a folder, each file whole or absent; `fetched` comes last and says what it is an image of."""
    if not _folder(run):
        return "foreign: not a run of this project (no tag lagrange.folder)"
    artifacts = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id)}
    if lacking := [name for name in _NEEDED if name not in artifacts]:
        return f"not wholly mirrored (no {' and no '.join(lacking)}); `python -m harness.sync RUNS` completes it"
    state = [_LAYOUT, run.info.status, run.info.end_time, artifacts, run.data.metrics, run.data.tags]
    stamp = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    if (entry / "fetched").is_file() and (entry / "fetched").read_text() == stamp:
        return entry
    entry.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry) as scratch:
        for artifact, name in _FILES.items():
            if artifact in artifacts:
                os.replace(client.download_artifacts(run.info.run_id, artifact, scratch), entry / name)
        rows = _update_rows(client, run, _splits(entry / EVAL))
        for name, text in {METRICS: rows, "fetched": stamp}.items():
            (Path(scratch) / name).write_text(text)
            os.replace(Path(scratch) / name, entry / name)
    return entry


def _update_rows(client: MlflowClient, run: Run, splits: set[str]) -> str:
    """The lines of metrics.jsonl, of those updates that were mirrored."""
    rows: dict[int, dict[str, float]] = {}
    for name in sorted(run.data.metrics):
        if not name.startswith(tuple(f"{split}/" for split in splits)):
            for metric in client.get_metric_history(run.info.run_id, name):
                rows.setdefault(metric.step, {"update": metric.step})[name] = metric.value
    return "".join(json.dumps(rows[update]) + "\n" for update in sorted(rows))


def _splits(path: Path) -> set[str]:
    """Whose metrics are evaluations, not updates."""
    evaluations = read_rows(path, ("update", "split"), [])
    return set(evaluations["split"].to_pylist()) if "split" in evaluations.column_names else set()


def _not_begun(client: MlflowClient, sweeps: Sequence[Run], folders: Sequence[str]) -> list[str]:
    notes = []
    for run in sweeps:
        name = run.data.tags["lagrange.sweep"]
        if "cells.json" not in [file.path for file in client.list_artifacts(run.info.run_id)]:
            notes.append(
                f"sweep {name}: not wholly mirrored (no cells.json); `python -m harness.sync RUNS` completes it"
            )
            continue
        with tempfile.TemporaryDirectory() as scratch:
            cells = json.loads(Path(client.download_artifacts(run.info.run_id, "cells.json", scratch)).read_text())
        places = [posixpath.normpath(posixpath.join(_folder(run), cell["folder"])) for cell in cells["cells"]]
        absent = len(set(places) - set(folders))
        if absent:
            notes.append(f"sweep {name}: {absent} of {len(places)} cells not begun, or not mirrored")
    return notes


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise AnalysisError(f"cannot write to {folder} ({error.strerror}); name another with LAGRANGE_CACHE") from error


def _silence() -> None:
    """MLflow's news, telemetry and four minutes of retries, before it is imported."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
