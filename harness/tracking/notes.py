"""The tracking note of a folder, tracking.json: which MLflow run mirrors it and what has been sent.

A lost note costs a search: the run is found again by its tags.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from harness.errors import without_secrets
from harness.records.files import read_json, write_json
from harness.records.layout import TRACKING
from harness.tracking.store import database_of


def read_note(folder: Path, uri: str) -> dict[str, Any]:
    """What the folder's note says of a store.

    uri: of the MLflow store.
    Returns run_id, status and artifacts as far as they were noted; {} where the note is missing, damaged or about
    another store.
    """
    try:
        note = read_json(folder / TRACKING)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and "run_id" in note and note.get("uri") == without_secrets(uri) else {}


def write_note(folder: Path, uri: str, run_id: str, **facts: Any) -> None:
    """Adds facts to the folder's note; what it said about another run is forgotten.

    uri: of the MLflow store. run_id: the MLflow run that mirrors the folder.
    """
    before = read_note(folder, uri)
    now = (before if before.get("run_id") == run_id else {}) | {"uri": without_secrets(uri), "run_id": run_id} | facts
    if now != before:
        write_json(folder / TRACKING, now)


def is_complete(folder: Path, uri: str) -> bool:
    """Whether a finished folder is wholly in the store at `uri`."""
    database = database_of(uri)
    exists = database is None or database.is_file()
    return exists and read_note(folder, uri).get("status") == "FINISHED"


def warning(reason: str, runs_dir: Path) -> str:
    """The line that says why MLflow lacks something, with the command that completes it once that is mended."""
    command = shlex.join([sys.executable, "-m", "harness.sync", str(runs_dir)])
    return f"tracking: not all is in MLflow ({reason}); once that is mended: {command}"
