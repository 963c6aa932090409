"""The mirror process of a command: started before the first cell, given three seconds after the last.

It lives beside the training processes and reads their folders, so a slow, locked or absent MLflow costs the
training nothing. It ends when its standard input does: also when the command was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import PROJECT
from harness.command.plan import Plan
from harness.tracking.notes import complete, warning
from harness.tracking.store import default_uri

PATIENCE_S = 3.0


@contextmanager
def mirrored(plan: Plan) -> Iterator[None]:
    """Mirrors the plan's folders while the block runs. At most one warning line; never an error."""
    if not _wanted(plan):
        yield
        return
    process = _start(plan)
    try:
        yield
    finally:
        _stop(process, plan)


def _wanted(plan: Plan) -> bool:
    first = plan.cells[0]
    if first.tracking.backend == "none" or first.dry_run:
        return False
    folders = [cell.folder for cell in plan.cells] + ([plan.sweep_folder] if plan.is_sweep else [])
    return not all(complete(folder, _uri(plan)) for folder in folders)


def _uri(plan: Plan) -> str:
    return plan.cells[0].tracking.uri or default_uri(Path(plan.cells[0].runs_dir))


def _start(plan: Plan) -> subprocess.Popen[str]:
    tracking = plan.cells[0].tracking
    job = {
        "uri": _uri(plan),
        "experiment": tracking.experiment,
        "every": tracking.every,
        "sweep": str(plan.sweep_folder.resolve()) if plan.is_sweep else None,
        "cells": [str(cell.folder.resolve()) for cell in plan.cells],
    }
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "harness.tracking.sync", "--follow"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the runs; the mirror sees how they ended
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once: said at the end
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    return process


def _stop(process: subprocess.Popen[str], plan: Plan) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    reason = "it ended early"
    try:
        code = process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code, reason = 1, f"not done {PATIENCE_S:g} s after the last cell"
    warned = process.stdout.read()
    if code != 0 and not warned:
        print(warning(reason, plan.cells[0].runs_dir), file=sys.stderr)
