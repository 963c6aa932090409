"""How a run stands, read from outside: light enough for a reader without torch."""

from __future__ import annotations

from pathlib import Path

from harness.records.files import is_held, read_json, read_signed
from harness.records.layout import ARTIFACTS, LOCK, MANIFEST, SWEEP

RECORDED = ("running", "finished", "paused", "failed", "interrupted")


def find(root: Path, name: str) -> list[Path]:
    """Files called `name`: the one in `root`, else all below it."""
    found = [root / name] if (root / name).is_file() else sorted(root.rglob(name))
    return [path for path in found if ARTIFACTS not in path.parts]


def status_of(folder: Path) -> str:
    """How a run stands, as a reader should see it now.

    Returns waiting, running, finished, paused, failed or interrupted; damaged where its manifest cannot be read.
    """
    try:
        return _status_of(folder)
    except (OSError, ValueError, KeyError):
        return "damaged"


def _status_of(folder: Path) -> str:
    if not (folder / MANIFEST).is_file():
        return "waiting"
    status = _recorded(folder)
    if status == "running" and not is_held(folder / LOCK):
        # Its holder may have finished between our two looks.
        now = _recorded(folder)
        return "interrupted" if now == "running" else now
    return status


def _recorded(folder: Path) -> str:
    status = read_signed(folder / MANIFEST)["status"]
    return status if status in RECORDED else "damaged"


def sweep_status(folder: Path) -> str:
    """running while a cell is, else failed, damaged, finished, paused, or interrupted where cells are left."""
    cells = [status_of((folder / cell["folder"]).resolve()) for cell in read_json(folder / SWEEP)["cells"]]
    for status in ("running", "failed", "damaged"):
        if status in cells:
            return status
    if set(cells) <= {"finished", "paused"}:
        return "paused" if "paused" in cells else "finished"
    return "interrupted"
