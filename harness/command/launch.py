"""A command from plan to summary: sweep.json before the first cell, a line for each failure after the last."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness import interrupts
from harness.command import slurm
from harness.command.banner import wrapped
from harness.command.dependencies import change_line, skipped_line
from harness.command.output import counted
from harness.command.plan import Plan
from harness.command.processes import Cell, run_cells
from harness.command.slurm_job import MIRRORED
from harness.config import Config
from harness.drivers.ray_cluster import private_cluster
from harness.errors import UserError, first_line, without_secrets
from harness.records.files import read_json, write_json
from harness.records.layout import EVAL, MANIFEST, SWEEP
from harness.records.state import status_of
from harness.records.tail import last_update, rows
from harness.tracking.background import mlflow_sync


@contextmanager
def sweep_context(plan: Plan) -> Iterator[None]:
    """What a command needs before its first cell and after its last."""
    if MIRRORED in os.environ:
        yield
        return
    _write_sweep(plan)
    if plan.is_sweep and "RayLauncher" in str(plan.launcher.get("_target_")):
        _keep_ray_private()
    first = plan.cells[0]
    sweep = plan.sweep_folder if plan.is_sweep else None
    with mlflow_sync(first.tracking, Path(first.runs_dir), [cell.folder for cell in plan.cells], sweep):
        yield
    sys.stdout.flush()


def interrupted() -> bool:
    """Whether a signal has asked this command to stop."""
    return interrupts.requested() is not None


def _keep_ray_private() -> None:
    """A cluster that Hydra's launcher for Ray starts is for nobody else; one that it joins stays as it is."""
    # Imported late: it imports Ray, an extra.
    from hydra_plugins.hydra_ray_launcher import _core

    start = _core.start_ray

    def start_privately(init_cfg: DictConfig) -> None:
        if init_cfg.get("address") or "RAY_ADDRESS" in os.environ:
            start(init_cfg)
            return
        with private_cluster():
            start(init_cfg)

    _core.start_ray = start_privately


def _write_sweep(plan: Plan) -> None:
    """Writes sweep.json: which cells belong to this sweep, and where they are. Raises UserError where it cannot."""
    if not plan.is_sweep:
        return
    folder = plan.sweep_folder
    cells: list[dict[str, Any]] = [
        {
            "folder": os.path.relpath(cell.folder, folder),
            "overrides": [without_secrets(word) for word in line],
            "config_sha256": cell.sha256(),
        }
        for cell, line in zip(plan.cells, plan.overrides, strict=True)
    ]
    for cell, (method, number) in zip(cells, plan.places, strict=False):
        cell |= {"method": method, "point": number}
    command = [without_secrets(word) for word in sys.argv[1:]]
    sweep = {"name": plan.name, "command": command, "cells": cells, "time": time.time()}
    if plan.points:
        settings = {key: without_secrets(v) if isinstance(v, str) else v for key, v in plan.points.settings.items()}
        sweep |= {"points": asdict(plan.points) | {"settings": settings}}
    try:
        _silence_hydra(Path(str(plan.cells[0].runs_dir)) / ".hydra")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / SWEEP, sweep)
    except OSError as error:
        raise UserError(
            f"{folder / SWEEP}: cannot be written ({first_line(error)}); choose another runs_dir"
        ) from error


def _silence_hydra(folder: Path) -> None:
    """Hydra writes the whole configuration of a sweep, passwords included, into this folder; here it goes nowhere."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / "multirun.yaml"
    if not copy.is_symlink():
        copy.unlink(missing_ok=True)
        with suppress(FileExistsError):  # by another launcher, between our two lines
            copy.symlink_to(os.devnull)


def run_due(plan: Plan, cell: Cell, cells: Iterable[int], stop_at: int | None = None) -> None:
    """Runs what is due of a plan's cells: as jobs of Slurm, or in processes of this machine.

    cell: runs one. cells, stop_at: as due's.
    """
    lines = due(plan, cells, stop_at)
    if plan.on_slurm:
        slurm.run_cells(plan.launcher, plan.name, Path(plan.cells[0].runs_dir), lines)
    else:
        run_cells(cell, [words for words, _ in lines], plan.jobs)


def due(plan: Plan, cells: Iterable[int], stop_at: int | None = None) -> list[tuple[list[str], Path]]:
    """The overrides and folders of the cells of a plan that have still to run up to an update.

    cells: their numbers in the plan. stop_at: update; None: to the end. Those that are there already, or have failed,
    are left out.
    """
    pause = [] if stop_at is None else [f"stop_at={stop_at}"]
    there = [number for number in cells if not _is_there(plan.cells[number], stop_at)]
    return [([*plan.overrides[number], *pause], plan.cells[number].folder) for number in there]


def _is_there(config: Config, stop_at: int | None) -> bool:
    """Whether a cell has ended, or is paused where it should be or further."""
    status = status_of(config.folder)
    if status == "paused" and stop_at is not None:
        return last_update(config.folder) >= stop_at
    return status == "finished" or (status == "failed" and not config.retry_failed)


def summary(plan: Plan) -> int:
    """Says how every cell ended and returns the exit code: 0 only if all are finished, or paused as asked."""
    ended = [(cell.folder, status_of(cell.folder)) for cell in plan.cells]
    counts = Counter(status for _, status in ended)
    skipped = [cell for cell in plan.cells if _finished_before(cell.folder, plan.started)]
    if plan.is_sweep:
        shown = counts - Counter(finished=len(skipped))
        parts = [f"{n} {status}" for status, n in sorted(shown.items())]
        parts += [f"{len(skipped)} already finished, skipped"] * bool(skipped)
        print(f"{counted(len(ended), 'cell')}: {', '.join(parts)}")
        print(f"sweep: {plan.sweep_folder}")
        for line, n in Counter(change for cell in skipped if (change := change_line(cell))).items():
            print(f"{n} of those skipped: {line}")
    else:
        print(f"{skipped_line(plan.cells[0])} · {ended[0][0]}" if skipped else f"{ended[0][1]}: {ended[0][0]}")
        if plan.cells[0].mode == "evaluate" and counts["finished"]:
            print("\n".join(_accuracies(ended[0][0])))
    never = [folder.name for folder, status in ended if status == "finished" and _never_acted(folder)]
    if never:
        print(wrapped(f"masked or clipped no token in any update: {', '.join(never)}"))
    for folder, status in ended:
        if status in ("failed", "damaged"):
            print(f"{status}: {folder}: {_reason(folder)}", file=sys.stderr)
    return 0 if counts["finished"] + counts["paused"] == len(ended) else 1


def _finished_before(folder: Path, when: float) -> bool:
    """Whether a run had finished before this command: it was skipped."""
    return status_of(folder) == "finished" and float(read_json(folder / MANIFEST).get("finished") or 0) < when


def _never_acted(folder: Path) -> bool:
    """Whether a finished run's method changed no token in any update: then it was a run without a rule."""
    return bool(read_json(folder / MANIFEST).get("acted_updates") == 0)


def _accuracies(folder: Path) -> Iterator[str]:
    """A line for each split and suite of a finished evaluation."""
    for row, _ in rows(folder / EVAL):
        most, passed = list(row["pass_at_k"].items())[-1]
        greedy = "" if row["greedy_accuracy"] is None else f"  greedy {row['greedy_accuracy']:.3f}"
        truncated = {name.removeprefix("accuracy_"): row[name] for name in row if name.startswith("accuracy_top_p_")}
        yield (
            f"  {row['split']:<13} {row['n']:>4} problems  avg@{row['k']} {row['sampled_accuracy']:.3f}"
            f"  pass@{most} {passed:.3f}{greedy}"
            + "".join(f"  {name} {value:.3f}" for name, value in truncated.items())
        )


def _reason(folder: Path) -> str:
    try:
        return str(read_json(folder / MANIFEST).get("error"))
    except (OSError, ValueError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({first_line(error)})"
