"""A command from plan to summary: sweep.json before the first cell, a line for each failure after the last."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.command.dependencies import change_line, skipped_line
from harness.command.plan import Plan
from harness.progress import QUIET
from harness.records.files import read_json, write_json
from harness.records.layout import EVAL, MANIFEST, SWEEP
from harness.records.state import status_of
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
    cells = [
        {
            "folder": os.path.relpath(cell.folder, folder),
            "overrides": line,
            "config_sha256": cell.sha256(),
        }
        for cell, line in zip(plan.cells, plan.overrides, strict=True)
    ]
    write_json(
        folder / SWEEP,
        {"name": plan.name, "command": sys.argv[1:], "cells": cells, "time": time.time()},
    )


def summary(plan: Plan) -> int:
    """Says how every cell ended and returns the exit code: 0 only if all are finished, or paused as asked."""
    ended = [(cell.folder, status_of(cell.folder)) for cell in plan.cells]
    counts = Counter(status for _, status in ended)
    skipped = [cell for cell in plan.cells if _finished_before(cell.folder, plan.started)]
    if plan.is_sweep:
        shown = counts - Counter(finished=len(skipped))
        parts = [f"{n} {status}" for status, n in sorted(shown.items())]
        print(
            f"{len(ended)} cells: " + ", ".join(parts + [f"{len(skipped)} already finished, skipped"] * bool(skipped))
        )
        print(f"sweep: {plan.sweep_folder}")
        for line, n in Counter(change for cell in skipped if (change := change_line(cell))).items():
            print(f"{n} of those skipped: {line}")
    else:
        print(f"{skipped_line(plan.cells[0])} · {ended[0][0]}" if skipped else f"{ended[0][1]}: {ended[0][0]}")
        if plan.cells[0].mode == "evaluate" and counts["finished"]:
            print("\n".join(_accuracies(ended[0][0])))
    never = [folder.name for folder, status in ended if status == "finished" and _never_acted(folder)]
    if never:
        print(f"never acted (the rule changed no token of the whole run): {', '.join(never)}")
    for folder, status in ended:
        if status == "failed":
            print(f"failed: {folder}: {_reason(folder)}", file=sys.stderr)
    return 0 if counts["finished"] + counts["paused"] == len(ended) else 1


def _finished_before(folder: Path, when: float) -> bool:
    """Whether a run had finished before this command: it was skipped."""
    return status_of(folder) == "finished" and float(read_json(folder / MANIFEST).get("finished") or 0) < when


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
