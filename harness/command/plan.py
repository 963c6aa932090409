"""Every cell of a command, checked before the first one starts. Writes nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig

from harness.command import slurm
from harness.command.compose import compose_cells
from harness.command.points import Points, compose, file_of
from harness.config import Config
from harness.errors import UserError
from harness.ranks.launch import check_launched
from harness.records.layout import SWEEPS
from harness.records.secrets import complaints_as_written

RUN = "hydra.mode=RUN"  # in the command of one cell of a sweep


@dataclass(frozen=True)
class Plan:
    """What a command will run.

    cells: their configs, in order.
    overrides: of each cell.
    name: of the sweep, "" for a single run.
    launcher: settings of Hydra's launcher.
    points: of a sweep that lists them. places: method and number of each cell's point.
    started: when the command was typed, in seconds; a cell that finished before is not run.
    """

    cells: list[Config]
    overrides: list[list[str]]
    name: str
    launcher: DictConfig = field(default_factory=lambda: DictConfig({}))
    points: Points | None = None
    places: list[tuple[str, int]] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    @property
    def is_sweep(self) -> bool:
        return bool(self.name)

    @property
    def only_estimated(self) -> bool:
        """Whether it is printed and not run."""
        return self.cells[0].dry_run or self.cells[0].calibrate

    @property
    def rungs(self) -> list[int]:
        """Updates at which only some points go on; none for a sweep that is no tuning."""
        return self.points.rungs if self.points else []

    @property
    def parallel(self) -> bool:
        """Whether cells run in other processes."""
        return self.is_sweep and "BasicLauncher" not in str(self.launcher.get("_target_"))

    @property
    def on_slurm(self) -> bool:
        """Whether a sweep's cells are jobs of Slurm."""
        return self.is_sweep and self.launcher.get("_target_") == slurm.TARGET

    @property
    def jobs(self) -> int:
        """How many of its cells a sweep runs at once in processes of ours; 0: Hydra's launcher runs them.

        A sweep that lists its points is not Hydra's: its cells always run in processes of ours.
        """
        ours = self.parallel and "JoblibLauncher" in str(self.launcher.get("_target_"))
        return int(self.launcher.n_jobs) if ours else int(self.points is not None)

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
    from harness.command.check import check, check_values
    from harness.command.resolve import resolve

    for cell in planned.cells:
        check_launched(cell.ranks, len(planned.cells))
        with complaints_as_written(cell):
            check_values(cell)
    cells = []
    for cell, words in zip(planned.cells, planned.overrides, strict=True):
        with complaints_as_written(cell):
            cells.append(resolve(cell, words))
    planned = replace(planned, cells=cells)
    _check_launcher(planned, arguments)
    for cell in cells:
        with complaints_as_written(cell):
            check(cell, elsewhere=planned.on_slurm)
    folders = {cell.folder for cell in planned.cells}
    if len(folders) < len(planned.cells):
        raise UserError(f"{len(planned.cells)} cells name only {len(folders)} different runs; drop the repeated values")
    return planned


def _check_launcher(planned: Plan, arguments: Sequence[str]) -> None:
    """Raises UserError where hydra/launcher=slurm can submit nothing."""
    if planned.launcher.get("_target_") != slurm.TARGET or planned.cells[0].dry_run or RUN in arguments:
        return
    if not planned.is_sweep:
        raise UserError("hydra/launcher=slurm: a launcher starts the cells of a sweep; put -m in front")
    tasks = int(planned.launcher.nodes or 1) * int(planned.launcher.tasks_per_node or 1)
    for cell in planned.cells:
        if tasks not in (1, cell.ranks):
            raise UserError(
                f"hydra/launcher=slurm: nodes · tasks_per_node = {tasks} tasks with ranks={cell.ranks}; "
                "expected one task, or as many as ranks"
            )
        slurm.check_gpus(planned.launcher, cell)
    slurm.check()


def _listed(arguments: Sequence[str], file: Path) -> Plan:
    """The plan of a sweep that lists its points."""
    points, cells, launcher = compose(arguments, file)
    if not cells:
        raise UserError(f"{file}: no cell; expected staleness and seeds, or a staleness in every point")
    name = "-".join(file.with_suffix("").parts[file.parts.index("sweep") + 1 :])
    configs, overrides = [cell.config for cell in cells], [cell.overrides for cell in cells]
    places = [(cell.method, cell.number) for cell in cells]
    return Plan(configs, overrides, name, launcher, points, places)
