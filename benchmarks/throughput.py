"""Cells an hour of a sweep on two cores: joblib with two jobs against one cell after the other, in turns.

    python -m benchmarks.throughput [--rounds 2] [--cells 4] [--updates 400]

Whole commands on the wall's clock: start-up, both evaluations of each cell, and the figures at the end included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import asked
from benchmarks.pace import ROOT

LAUNCHERS = {
    "one after the other": (),
    "joblib, n_jobs=2": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}


def seconds(launcher: tuple[str, ...], cells: int, updates: int) -> float:
    """Of one whole sweep over seeds. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = [f"seed={','.join(str(1 + n) for n in range(cells))}", f"updates={updates}", f"eval.every={updates}"]
        command = [sys.executable, "run.py", "-m", *sweep, "tracking=none", f"runs_dir={folder}", *launcher]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--updates", type=int, default=400)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in LAUNCHERS}
    for _ in range(options.rounds):
        for name, launcher in LAUNCHERS.items():
            taken[name].append(seconds(launcher, options.cells, options.updates))
    print(f"{options.cells} cells of {options.updates} updates on {os.cpu_count()} cores:\n")
    print("| launcher | seconds a sweep | cells an hour |\n|---|---|---|")
    for name, times in taken.items():
        print(f"| {name} | {asked.middle(times)} | {3600 * options.cells / statistics.median(times):,.0f} |")
    one, two = taken.values()
    gain = [a / b for a, b in zip(one, two, strict=True)]
    print(asked.table([asked.row("sweep, two joblib jobs against one after the other", gain, "≥ 1.8", "×")]))


if __name__ == "__main__":
    main()
