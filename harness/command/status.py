"""`python -m harness.status RUNS…`: every cell, finished or not, as a table.

RUNS are run folders or any folder above them; cells that a sweep names and nobody has started are waiting.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import printable
from harness.records.files import lock_owner, read_json
from harness.records.layout import HEARTBEAT, LOCK, MANIFEST, METRICS, SWEEP
from harness.records.state import find, status_of
from harness.records.tail import last_row

COLOUR = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "paused": "yellow",
    "waiting": "dim",
    "damaged": "red",
}


@dataclass(frozen=True)
class Cell:
    """One run as it stands.

    status: as `status_of` says, or damaged. update: the last one recorded, of `updates` (None: not known).
    detail: heartbeat, error or owner, in words.
    """

    folder: Path
    status: str
    update: int
    updates: int | None
    detail: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code, 1 where there is no run."""
    parser = argparse.ArgumentParser(prog="python -m harness.status", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or any folder above them")
    options = parser.parse_args(arguments)
    cells = [look(folder) for folder in folders(options.runs)]
    if not cells:
        print(f"status: no {MANIFEST} or {SWEEP} below {', '.join(map(str, options.runs))}", file=sys.stderr)
        return 1
    console = Console()
    console.print(table(cells))
    counts = Counter(cell.status for cell in cells)
    console.print(f"{len(cells)} cells: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    return 0


def folders(roots: Sequence[Path]) -> list[Path]:
    """Run folders below some folders, and those their sweeps name.

    roots: run folders, sweep folders or any folder above them.
    Returns absolute paths in their order; a sweep's record that cannot be read is named on stderr.
    """
    runs = {path.parent.resolve() for root in roots for path in find(root, MANIFEST)}
    for root in roots:
        for sweep in find(root, SWEEP):
            try:
                cells = read_json(sweep)["cells"]
                runs |= {(sweep.parent / str(cell["folder"])).resolve() for cell in cells}
            except (OSError, ValueError, KeyError, TypeError) as error:
                print(f"status: {sweep}: not a sweep's record ({type(error).__name__})", file=sys.stderr)
    return sorted(runs)


def look(folder: Path) -> Cell:
    """How one run folder stands; a damaged record is a status, not an error."""
    try:
        status = status_of(folder)
        if status == "waiting":
            return Cell(folder, status, 0, None, "")
        if status == "damaged":
            return Cell(folder, status, last_update(folder), None, f"{MANIFEST} cannot be read, or has been changed")
        manifest = read_json(folder / MANIFEST)
        return Cell(folder, status, last_update(folder), manifest.get("updates"), _detail(folder, status, manifest))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Cell(folder, "damaged", 0, None, f"{MANIFEST} cannot be read ({type(error).__name__})")


def last_update(folder: Path) -> int:
    """The update of the last whole row of metrics.jsonl; 0 where there is none."""
    return int((last_row(folder / METRICS) or {}).get("update", 0))


def _detail(folder: Path, status: str, manifest: dict[str, Any]) -> str:
    if status == "failed":
        return str(manifest.get("error"))
    if status == "running":
        heartbeat = folder / HEARTBEAT
        ago = f"{time.time() - heartbeat.stat().st_mtime:.0f} s ago" if heartbeat.is_file() else "none yet"
        return f"heartbeat {ago}, {lock_owner(folder / LOCK)}"
    if status in ("interrupted", "paused"):
        return "the same command carries on"
    return ""


def table(cells: Sequence[Cell]) -> Table:
    """The cells as a table for the terminal, a line each."""
    lines = Table(box=None, pad_edge=False)
    lines.add_column("cell", overflow="fold")
    lines.add_column("status")
    lines.add_column("update", justify="right")
    lines.add_column("", overflow="fold")
    for cell in cells:
        # Text, not markup: a folder's name or an error message must not be interpreted.
        progress = f"{cell.update}/{cell.updates}" if cell.updates else str(cell.update or "")
        name, status = (
            Text(printable(cell.folder.name)),
            Text(printable(cell.status), style=COLOUR.get(cell.status, "")),
        )
        lines.add_row(name, status, progress, Text(printable(cell.detail)))
    return lines


if __name__ == "__main__":
    sys.exit(main())
