"""tracking.json in a folder: where its mirror image is and what has been sent. Lost, it is found again by tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.records.files import read_json, write_json
from harness.tracking.store import database_of

TRACKING = "tracking.json"


def noted(folder: Path, uri: str) -> dict[str, Any]:
    """What is known of the image at `uri` (run_id, status, artifacts); nothing where the note is missing, damaged
    or about another store."""
    try:
        note = read_json(folder / TRACKING)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and "run_id" in note and note.get("uri") == uri else {}


def note(folder: Path, uri: str, run_id: str, **facts: Any) -> None:
    """Remembers in the folder where its image is; what was noted about another run is forgotten."""
    before = noted(folder, uri)
    now = (before if before.get("run_id") == run_id else {}) | {"uri": uri, "run_id": run_id} | facts
    if now != before:
        write_json(folder / TRACKING, now)


def complete(folder: Path, uri: str) -> bool:
    """Whether a finished folder is wholly mirrored at `uri`."""
    database = database_of(uri)
    there = database is None or database.is_file()
    return there and noted(folder, uri).get("status") == "FINISHED"


def warning(reason: str, runs: str) -> str:
    return f"tracking: the MLflow mirror is incomplete ({reason}); `python -m harness.sync {runs}` completes it"
