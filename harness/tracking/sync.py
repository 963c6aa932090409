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
from pathlib import Path

import yaml

from harness.errors import first_line
from harness.records.files import read_json
from harness.records.layout import CONFIG, MANIFEST, SWEEP
from harness.records.state import find
from harness.tracking.background import SyncJob
from harness.tracking.mirror import Mirror
from harness.tracking.notes import warning
from harness.tracking.store import default_uri

POLL_S = 5.0  # a call costs MLflow as much as three rows do


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.sync", description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run or sweep folders, or any folder above them")
    parser.add_argument("--uri", help="MLflow store (default: as the run was configured, else sqlite beside it)")
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
    where = ", ".join(sorted({key[0] for key in mirrors}))
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
        ended = False
        while not ended:
            ended = self._input_ended(POLL_S)
            whole = self._pass(final=ended)
        return 0 if whole else 1

    def _pass(self, *, final: bool) -> bool:
        """Whether everything that is in the folders is now in MLflow."""
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
        except Exception as error:  # whatever the store raises must not matter to the runs: said once, tried again
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        runs = Path(os.path.relpath(self._cells[0].parents[1]))
        print(warning(_reason(error), runs), file=sys.stderr, flush=True)
        print("warned", flush=True)  # so that the command does not say it again

    @staticmethod
    def _input_ended(timeout: float) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], timeout)
        return bool(readable) and sys.stdin.read(1) == ""


def _settings(folder: Path, uri: str | None, experiment: str | None, every: int | None) -> tuple[str, str, int]:
    config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    own = config.get("tracking", {})
    return (
        uri or own.get("uri") or default_uri(folder.parents[1]),
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
