"""`python -m harness.status RUNS…`: every cell, finished or not, as a table.

RUNS are run folders or any folder above them; cells that a sweep names and nobody has started are waiting.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.command.output import counted
from harness.errors import printable
from harness.records.files import lock_owner, read_json
from harness.records.layout import CONFIG, HEARTBEAT, LOCK, MANIFEST, SWEEP
from harness.records.limits import read_yaml
from harness.records.state import find, status_of
from harness.records.tail import last_update, validation_scores
from harness.schema import leaves

COLOUR = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "interrupted": "yellow",
    "paused": "yellow",
    "waiting": "dim",
    "damaged": "red",
}

SETTING = {"algorithm": "", "staleness": "s=", "seed": "seed="}  # of the manifest → how it is shown
IN_COLUMNS = {"seed", "staleness", "updates", "mode", "checkpoint", "choices.algo", "choices.task"}  # or in the name


@dataclass(frozen=True)
class Cell:
    """One run as it stands.

    status: as `status_of` says, or damaged. update: the last one recorded, of `updates` (None: not known).
    detail: heartbeat, error or owner, in words.
    task: its name. setting: method, staleness and seed. accuracy: on validation, best and last.
    config: its values that change what is computed, flat.
    """

    folder: Path
    status: str
    update: int
    updates: int | None
    detail: str
    task: str = ""
    setting: str = ""
    accuracy: str = ""
    config: dict[str, str] = field(default_factory=dict)


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
    states = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    console.print(f"{counted(len(cells), 'cell')}: {states}")
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
        return Cell(
            folder,
            status,
            last_update(folder),
            manifest.get("updates"),
            _detail(folder, status, manifest),
            str(manifest.get("task", "")),
            " ".join(f"{short}{manifest[name]}" for name, short in SETTING.items() if manifest.get(name) is not None),
            _accuracy(folder),
            _science(folder, manifest.get("roles") or {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Cell(folder, "damaged", 0, None, f"{MANIFEST} cannot be read ({type(error).__name__})")


def _accuracy(folder: Path) -> str:
    """The best and the last accuracy on validation: "best .512 at 80, last .498"."""
    scores = validation_scores(folder)
    if not scores:
        return ""
    best, last = max(scores, key=lambda update: scores[update]), max(scores)
    return f"{scores[last]:.3f}" + (f", best {scores[best]:.3f} at {best}" if best != last else "")


def _science(folder: Path, roles: dict[str, str]) -> dict[str, str]:
    """The values that change what is computed and are in no column; none where config.yaml cannot be read."""
    try:
        values = leaves(read_yaml(folder / CONFIG) or {})
        shown = {name: str(value) for name, value in values if roles.get(name) == "science"}
    except (OSError, ValueError, AttributeError):
        return {}
    return {name: value for name, value in shown.items() if name not in IN_COLUMNS and not name.endswith("_target_")}


def different(cells: Sequence[Cell]) -> list[str]:
    """Names of the values in which cells of one task differ, all having them."""
    configs = [cell.config for cell in cells if cell.config]
    names = set.intersection(*(set(config) for config in configs)) if configs else set()
    return sorted(name for name in names if len({config[name] for config in configs}) > 1)


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
    lines.add_column("task")
    lines.add_column("setting", overflow="fold")
    lines.add_column("status")
    lines.add_column("update", justify="right")
    lines.add_column("accuracy", overflow="fold")
    lines.add_column("", overflow="fold")
    names = different(cells)
    for cell in cells:
        # Text, not markup: a folder's name or an error message must not be interpreted.
        progress = f"{cell.update}/{cell.updates}" if cell.updates else str(cell.update or "")
        own = [f"{name}={cell.config[name]}" for name in names if name in cell.config]
        texts = [cell.folder.name, cell.task, " ".join([cell.setting, *own])]
        status, last = Text(cell.status, style=COLOUR.get(cell.status, "")), (progress, cell.accuracy, cell.detail)
        lines.add_row(*(Text(printable(t)) for t in texts), status, *(Text(printable(t)) for t in last))
    return lines


if __name__ == "__main__":
    sys.exit(main())
