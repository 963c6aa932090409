"""`python -m harness.sync RUNS…`: rebuilds or completes MLflow's copy of run folders. Idempotent.

RUNS are run folders, sweep folders (with their cells), or any folder above them. With --live (how run.py starts
it) the folders come as one line of JSON on standard input and are kept up to date until that ends.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness.errors import first_line, without_secrets
from harness.records.files import read_json
from harness.records.layout import CONFIG, MANIFEST, SWEEP
from harness.records.limits import read_yaml
from harness.records.state import find
from harness.tracking.background import SyncJob
from harness.tracking.mirror import Mirror
from harness.tracking.notes import warning
from harness.tracking.store import store_uri

POLL_S = 5.0  # a call costs MLflow as much as three rows do
PERSISTENT_S = 60.0  # an error that lasts as long is said while the runs go on
LAST_TRIES = 3


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.sync", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run or sweep folders, or any folder above them")
    parser.add_argument("--uri", help="MLflow store (default: as configured, else $MLFLOW_TRACKING_URI, else sqlite)")
    parser.add_argument("--experiment", help="MLflow experiment (default: as the run was configured)")
    parser.add_argument("--every", type=int, help="updates between mirrored rows (default: as configured)")
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.live:
        return LiveSync(SyncJob(**json.loads(sys.stdin.readline()))).run()
    if not options.runs:
        parser.error("no RUNS given")
    return sync(options.runs, options.uri, options.experiment, options.every)


def sync(roots: Sequence[Path], uri: str | None, experiment: str | None, every: int | None) -> int:
    """Mirrors every run and sweep below some folders, and prints what it did.

    roots: run folders, sweep folders or any folder above them.
    uri, experiment, every: of the MLflow store; None: as each run was configured.
    Returns the exit code: 1 if nothing was found or something failed.
    """
    sweeps = sorted({p.parent.resolve() for root in roots for p in find(root, SWEEP)}, key=_sweep_time)
    sweep_of = {(s / c["folder"]).resolve(): s for s in sweeps for c in read_json(s / SWEEP)["cells"]}
    begun = {p.parent.resolve() for root in roots for p in find(root, MANIFEST)}
    cells = sorted(begun | {cell for cell in sweep_of if (cell / MANIFEST).is_file()})
    if not cells:
        print(f"sync: no {MANIFEST} below {', '.join(map(str, roots))}", file=sys.stderr)
        return 1
    mirrors: dict[tuple[str, str, int], Mirror] = {}
    parents: dict[tuple[Path, Path], tuple[Mirror, str]] = {}
    failed = 0
    for folder in cells:
        try:
            key = _settings(folder, uri, experiment, every)
            mirror = mirrors[key] if key in mirrors else mirrors.setdefault(key, Mirror(*key))
            sweep = sweep_of.get(folder)
            parent = None
            if sweep is not None:
                parent = mirror.sweep(sweep)
                parents[folder, sweep] = mirror, parent
            mirror.cell(folder, parent)
        except Exception as error:  # one damaged folder or an unreachable store: said, and the next one tried
            failed += 1
            print(f"sync: {folder}: {_reason(error)}", file=sys.stderr)
    for sweep, (mirror, parent) in {s: opened for (_, s), opened in parents.items()}.items():
        mirror.close_sweep(sweep, parent)
    ended = sum(mirror.end_dead_runs() for mirror in mirrors.values())
    where = without_secrets(", ".join(sorted({key[0] for key in mirrors})))
    print(f"sync: {len(cells) - failed} of {len(cells)} runs mirrored at {where}; {ended} dead ones ended")
    return 1 if failed else 0


class LiveSync:
    """Mirrors a command's folders again and again until standard input ends, then once more."""

    def __init__(self, job: SyncJob) -> None:
        self._job = job
        self._cells = [Path(cell) for cell in job.cells]
        self._sweep = None if job.sweep is None else Path(job.sweep)
        self._mirror: Mirror | None = None
        self._parent: str | None = None
        self._warned = False

    def run(self) -> int:
        """Returns the exit code: 0 if everything that is in the folders is in MLflow."""
        os.nice(5)  # the runs come first
        well = time.monotonic()  # when there was no error, last
        while not self._input_ended(POLL_S):
            error = self._pass(final=False)
            if error is None:
                well = time.monotonic()
            elif time.monotonic() - well > PERSISTENT_S:
                self._warn(error)
        for _ in range(LAST_TRIES):
            error = self._pass(final=True)
            if error is None:
                return 0
            time.sleep(1)
        assert error is not None
        self._warn(error)
        return 1

    def _pass(self, *, final: bool) -> Exception | None:
        """Mirrors what is in the folders. Returns what kept it from that; the next pass starts from the store."""
        try:
            if self._mirror is None:
                self._mirror = Mirror(self._job.uri, self._job.experiment, self._job.every)
                self._mirror.end_dead_runs()
            if self._sweep is not None and self._parent is None:
                self._parent = self._mirror.sweep(self._sweep)
            for folder in self._cells:
                self._mirror.cell(folder, self._parent)
            if final and self._sweep is not None and self._parent is not None:
                self._mirror.close_sweep(self._sweep, self._parent)
        except Exception as error:  # whatever the store raises must not matter to the runs: tried again, then said
            self._mirror = self._parent = None
            return error
        return None

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        runs = Path(os.path.relpath(self._cells[0].parents[1]))
        with suppress(OSError):  # the command, or its terminal, may be gone
            print(warning(_reason(error), runs), file=sys.stderr, flush=True)
            print("warned", flush=True)  # so that the command does not say it again

    @staticmethod
    def _input_ended(timeout: float) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], timeout)
        return bool(readable) and sys.stdin.read(1) == ""


def _settings(folder: Path, uri: str | None, experiment: str | None, every: int | None) -> tuple[str, str, int]:
    config: dict[str, Any] = read_yaml(folder / CONFIG)
    own = OmegaConf.create(config).get("tracking", {})  # what the environment says is recorded as ${oc.env:NAME}
    return (
        uri or store_uri(str(own.get("uri") or ""), folder.parents[1]),
        experiment or own.get("experiment") or "lagrange",
        every or int(own.get("every", 10)),
    )


def _sweep_time(folder: Path) -> float:
    return float(read_json(folder / SWEEP).get("time", time.time()))


def _reason(error: Exception) -> str:
    name = type(error).__name__
    return f"{name}: {first_line(error)[:200]}" if str(error).strip() else name


if __name__ == "__main__":
    sys.exit(main())
