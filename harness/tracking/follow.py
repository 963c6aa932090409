"""The mirror process of a command: started before the first cell, given three seconds after the last.

It lives beside the training processes and reads their folders, so a slow, locked or absent MLflow costs the
training nothing. It ends when its standard input does: also when the command was killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness import PROJECT
from harness.config import Config
from harness.tracking.notes import complete, warning
from harness.tracking.store import default_uri

PATIENCE_S = 3.0


@contextmanager
def mlflow_sync(cells: Sequence[Config], sweep: Path | None) -> Iterator[None]:
    """Mirrors the folders of a command while the block runs. At most one warning line; never an error.

    cells: the command's runs, all tracked as the first one is.
    sweep: the folder of the sweep they belong to, if any.
    """
    first = cells[0]
    uri = first.tracking.uri or default_uri(Path(first.runs_dir))
    folders = [cell.folder for cell in cells] + ([sweep] if sweep else [])
    if first.tracking.backend == "none" or all(complete(folder, uri) for folder in folders):
        yield
        return
    job = {
        "uri": uri,
        "experiment": first.tracking.experiment,
        "every": first.tracking.every,
        "sweep": str(sweep.resolve()) if sweep else None,
        "cells": [str(cell.folder.resolve()) for cell in cells],
    }
    process = _start(job)
    try:
        yield
    finally:
        _stop(process, first.runs_dir)


def _start(job: dict[str, Any]) -> subprocess.Popen[str]:
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


def _stop(process: subprocess.Popen[str], runs_dir: str) -> None:
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
        print(warning(reason, runs_dir), file=sys.stderr)
