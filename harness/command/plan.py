"""Every cell of a command, checked before the first one starts. Writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.command.compose import compose_cells
from harness.config import Config
from harness.errors import UserError
from harness.ranks.launch import check_launched
from harness.records.layout import SWEEPS


@dataclass(frozen=True)
class Plan:
    """What a command will run.

    cells: their configs, in order.
    overrides: of each cell.
    name: of the sweep, "" for a single run.
    parallel: the launcher starts other processes.
    """

    cells: list[Config]
    overrides: list[list[str]]
    name: str
    parallel: bool = False

    @property
    def is_sweep(self) -> bool:
        return bool(self.name)

    @property
    def sweep_folder(self) -> Path:
        """Where sweep.json, figures, table and report go: a function of the cells."""
        digest = hashlib.sha256("".join(cell.sha256() for cell in self.cells).encode()).hexdigest()
        return Path(self.cells[0].runs_dir) / SWEEPS / f"{self.name}-{digest[:10]}"


def plan(arguments: Sequence[str]) -> Plan:
    """What the words after `run.py` ask for. Raises UserError, in one line, for anything wrong with any cell."""
    planned = Plan(*compose_cells(arguments))
    # Imported late: a mistyped key is refused without loading torch.
    from harness.command.check import check

    for cell in planned.cells:
        check_launched(cell.ranks, len(planned.cells))
        check(cell)
    folders = {cell.folder for cell in planned.cells}
    if len(folders) < len(planned.cells):
        raise UserError(f"{len(planned.cells)} cells name only {len(folders)} different runs; drop the repeated values")
    return planned
