"""Every cell of a command, checked before the first one starts. Writes nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig

from harness.command.compose import compose_cells
from harness.config import Config
from harness.errors import UserError
from harness.records.layout import SWEEPS


@dataclass(frozen=True)
class Plan:
    """What a command will run.

    cells: their configs, in order.
    overrides: of each cell.
    name: of the sweep, "" for a single run.
    launcher: settings of Hydra's launcher.
    started: when the command was typed, in seconds; a cell that finished before is not run.
    """

    cells: list[Config]
    overrides: list[list[str]]
    name: str
    launcher: DictConfig = field(default_factory=lambda: DictConfig({}))
    started: float = field(default_factory=time.time)

    @property
    def is_sweep(self) -> bool:
        return bool(self.name)

    @property
    def parallel(self) -> bool:
        """Whether cells run in other processes."""
        return self.is_sweep and "BasicLauncher" not in str(self.launcher.get("_target_"))

    @property
    def jobs(self) -> int:
        """How many of its cells a sweep runs at once in processes of ours; 0: Hydra's launcher runs them."""
        ours = self.parallel and "JoblibLauncher" in str(self.launcher.get("_target_"))
        return int(self.launcher.n_jobs) if ours else 0

    @property
    def sweep_folder(self) -> Path:
        """Where sweep.json, figures, table and report go: a function of the cells."""
        digest = hashlib.sha256("".join(cell.sha256() for cell in self.cells).encode()).hexdigest()
        return Path(self.cells[0].runs_dir) / SWEEPS / f"{self.name}-{digest[:10]}"


def plan(arguments: Sequence[str]) -> Plan:
    """What the words after `run.py` ask for. Raises UserError, in one line, for anything wrong with any cell."""
    planned = Plan(*compose_cells(arguments))
    # Imported late: a mistyped key is refused without loading torch.
    from harness.command.check import check, check_values
    from harness.command.resolve import resolve

    for cell in planned.cells:
        check_values(cell)
    planned = replace(planned, cells=list(map(resolve, planned.cells, planned.overrides)))
    for cell in planned.cells:
        check(cell)
    folders = {cell.folder for cell in planned.cells}
    if len(folders) < len(planned.cells):
        raise UserError(f"{len(planned.cells)} cells name only {len(folders)} different runs; drop the repeated values")
    return planned
