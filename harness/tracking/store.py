"""Opens an MLflow store: without its news and long retries, and safely while others open it too."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import MASK, UserError, without_secrets
from harness.records.layout import ARTIFACTS
from harness.tracking import saved_view

if TYPE_CHECKING:
    from mlflow import MlflowClient


def store_uri(configured: str, runs_dir: Path) -> str:
    """Where runs are mirrored: `tracking.uri`, else $MLFLOW_TRACKING_URI, else sqlite in the folder of all runs.

    configured: tracking.uri as it was given, or as config.yaml records it.
    Raises UserError for a recorded one whose password nobody has given again.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if MASK not in configured:
        return configured or given or default_uri(runs_dir)
    if without_secrets(given) != configured:
        raise UserError(
            f"{configured}: passwords are not recorded; give the whole address in --uri or MLFLOW_TRACKING_URI"
        )
    return given


def default_uri(runs_dir: Path) -> str:
    """The uri of the sqlite database in the folder of all runs."""
    return f"sqlite:///{runs_dir.resolve()}/mlflow.db"


def database_of(uri: str) -> Path | None:
    """The file of a sqlite uri, None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Opens a store; database and experiment are made where they are missing.

    uri: "sqlite:///…" or the address of a server. experiment: its name.
    Returns a client and the experiment's id. Raises whatever MLflow raises when the store does not answer.
    """
    _silence()
    import mlflow

    database = database_of(uri)
    with _one_at_a_time(database):
        _create_database(database)
        client = mlflow.MlflowClient(tracking_uri=uri)
        return client, _experiment_id(client, experiment, database)


def experiments(uri: str) -> dict[str, str]:
    """The experiments of a store that LagRange has written to: id → name."""
    _silence()
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    return {each.experiment_id: each.name for each in client.search_experiments() if saved_view.ALL_CELLS in each.tags}


def set_experiment_tags(client: MlflowClient, experiment: str, tags: dict[str, str]) -> None:
    """Sets tags of an experiment; a view or a kind that somebody chose stays. experiment: its id."""
    before = client.get_experiment(experiment).tags
    for tag, value in tags.items():
        if before.get(tag) != value and (tag not in before or saved_view.is_ours(tag, before[tag])):
            client.set_experiment_tag(experiment, tag, value)


def _experiment_id(client: MlflowClient, name: str, database: Path | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage != "active":
        raise UserError(
            f"the experiment {name} was deleted in MLflow; restore it there, or give tracking.experiment=ANOTHER "
            "(--experiment of harness.sync)"
        )
    if found is not None:
        expected = {
            tag: value for tag, value in saved_view.TAGS.items() if tag in saved_view.KIND or tag not in found.tags
        }
        set_experiment_tags(client, str(found.experiment_id), expected)
        return str(found.experiment_id)
    # Without a place MLflow would put artifacts into whatever folder the command was typed in.
    place = None if database is None else (database.resolve().parent / ARTIFACTS).as_uri()
    return str(client.create_experiment(name, artifact_location=place, tags=saved_view.TAGS))


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
