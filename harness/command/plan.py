"""Every cell of a command, checked before the first one starts. Writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.command.compose import compose_cells
from harness.command.points import Points, compose, file_of
from harness.config import Config
from harness.errors import UserError
from harness.records.layout import SWEEPS


@dataclass(frozen=True)
class Plan:
    """What a command will run.

    cells: their configs, in order.
    overrides: of each cell.
    name: of the sweep, "" for a single run.
    parallel: the launcher starts other processes.
    jobs: how many, for a sweep that lists its points (-1: as many as cores).
    points: of such a sweep. places: method and number of each cell's point.
    """

    cells: list[Config]
    overrides: list[list[str]]
    name: str
    parallel: bool = False
    jobs: int = 1
    points: Points | None = None
    places: list[tuple[str, int]] = field(default_factory=list)

    @property
    def is_sweep(self) -> bool:
        return bool(self.name)

    @property
    def rungs(self) -> list[int]:
        """Updates at which only some points go on; none for a sweep that is no tuning."""
        return self.points.rungs if self.points else []

    @property
    def sweep_folder(self) -> Path:
        """Where sweep.json, figures, table and report go: a function of the cells."""
        digest = hashlib.sha256("".join(cell.sha256() for cell in self.cells).encode()).hexdigest()
        return Path(self.cells[0].runs_dir) / SWEEPS / f"{self.name}-{digest[:10]}"


def plan(arguments: Sequence[str]) -> Plan:
    """What the words after `run.py` ask for. Raises UserError, in one line, for anything wrong with any cell."""
    file = file_of(arguments)
    planned = Plan(*compose_cells(arguments)) if file is None else _listed(arguments, file)
    # Imported late: a mistyped key is refused without loading torch.
    from harness.command.check import check

    for cell in planned.cells:
        check(cell)
    folders = {cell.folder for cell in planned.cells}
    if len(folders) < len(planned.cells):
        raise UserError(f"{len(planned.cells)} cells name only {len(folders)} different runs; drop the repeated values")
    return planned


def _listed(arguments: Sequence[str], file: Path) -> Plan:
    """The plan of a sweep that lists its points."""
    points, cells, jobs = compose(arguments, file)
    if not cells:
        raise UserError(f"{file}: no cell; expected staleness and seeds, or a staleness in every point")
    name = "-".join(file.with_suffix("").parts[file.parts.index("sweep") + 1 :])
    configs, overrides = [cell.config for cell in cells], [cell.overrides for cell in cells]
    places = [(cell.method, cell.number) for cell in cells]
    return Plan(configs, overrides, name, jobs != 1, jobs, points, places)
