"""A command from plan to summary: sweep.json before the first cell, a line for each failure after the last."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from harness.command.cell import run_cell
from harness.command.plan import Plan
from harness.config import Config
from harness.progress import QUIET
from harness.records.files import read_json, write_json
from harness.records.layout import EVAL, MANIFEST, METRICS, SWEEP
from harness.records.state import status_of
from harness.records.tail import last_row
from harness.tracking.background import mlflow_sync


@contextmanager
def sweep_context(plan: Plan) -> Iterator[None]:
    """What a command needs before its first cell and after its last."""
    _write_sweep(plan)
    if plan.parallel:
        os.environ[QUIET] = "1"  # inherited by the cells' processes: one display, not one a cell
        # joblib replaces a worker that has grown since its first cell (allocators keep what they had); no cell is lost
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
    first = plan.cells[0]
    sweep = plan.sweep_folder if plan.is_sweep else None
    with mlflow_sync(first.tracking, Path(first.runs_dir), [cell.folder for cell in plan.cells], sweep):
        yield
    sys.stdout.flush()


def _write_sweep(plan: Plan) -> None:
    """Writes sweep.json: which cells belong to this sweep, and where they are."""
    if not plan.is_sweep:
        return
    folder = plan.sweep_folder
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[dict[str, Any]] = [
        {
            "folder": os.path.relpath(cell.folder, folder),
            "overrides": line,
            "config_sha256": cell.sha256(),
        }
        for cell, line in zip(plan.cells, plan.overrides, strict=True)
    ]
    for cell, (method, number) in zip(cells, plan.places, strict=False):
        cell |= {"method": method, "point": number}
    listed = {"points": asdict(plan.points)} if plan.points else {}
    write_json(
        folder / SWEEP,
        {"name": plan.name, "command": sys.argv[1:], "cells": cells, "time": time.time(), **listed},
    )


def run_to(plan: Plan, cells: Iterable[int], stop_at: int | None = None) -> None:
    """Runs cells of a plan up to an update, in as many processes as its launcher has.

    cells: their numbers in the plan. stop_at: update; None: to the end. Those that are there already, or have failed,
    are left as they are.
    """
    due = [replace(plan.cells[number], stop_at=stop_at or plan.cells[number].stop_at) for number in cells]
    due = [config for config in due if config.retry_failed or not _is_there(config)]
    Parallel(plan.jobs)(delayed(run_cell)(config) for config in due)


def _is_there(config: Config) -> bool:
    """Whether a cell has ended, or is paused where it should be or further."""
    status = status_of(config.folder)
    if status == "paused" and config.stop_at is not None:
        return int((last_row(config.folder / METRICS) or {}).get("update", 0)) >= config.stop_at
    return status in ("finished", "failed")


def summary(plan: Plan) -> int:
    """Says how every cell ended and returns the exit code: 0 only if all are finished, or paused as asked."""
    ended = [(cell.folder, status_of(cell.folder)) for cell in plan.cells]
    counts = Counter(status for _, status in ended)
    if plan.is_sweep:
        print(f"{len(ended)} cells: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
        print(f"sweep: {plan.sweep_folder}")
    else:
        print(f"{ended[0][1]}: {ended[0][0]}")
        if plan.cells[0].mode == "evaluate" and counts["finished"]:
            print("\n".join(_accuracies(ended[0][0])))
    never = [folder.name for folder, status in ended if status == "finished" and _never_acted(folder)]
    if never:
        print(f"never acted (the rule changed no token of the whole run): {', '.join(never)}")
    for folder, status in ended:
        if status == "failed":
            print(f"failed: {folder}: {_reason(folder)}", file=sys.stderr)
    return 0 if counts["finished"] + counts["paused"] == len(ended) else 1


def _never_acted(folder: Path) -> bool:
    """Whether a finished run's method changed no token in any update: then it was a run without a rule."""
    return bool(read_json(folder / MANIFEST).get("acted_updates") == 0)


def _accuracies(folder: Path) -> Iterator[str]:
    """A line for each split and suite of a finished evaluation."""
    for line in (folder / EVAL).read_text().splitlines():
        row = json.loads(line)
        most, passed = list(row["pass_at_k"].items())[-1]
        greedy = "" if row["greedy_accuracy"] is None else f"  greedy {row['greedy_accuracy']:.3f}"
        truncated = {name.removeprefix("accuracy_"): row[name] for name in row if name.startswith("accuracy_top_p_")}
        yield (
            f"  {row['split']:<13} {row['n']:>4} problems  avg@{row['k']} {row['sampled_accuracy']:.3f}"
            f"  pass@{most} {passed:.3f}{greedy}"
            + "".join(f"  {name} {value:.3f}" for name, value in truncated.items())
        )


def _reason(folder: Path) -> str:
    return str(read_json(folder / MANIFEST).get("error"))
